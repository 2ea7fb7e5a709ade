"""Ask a run to save and end after its step: `taidscale stop CONFIG [overrides]`.

From any host that sees `run_dir`: what SIGUSR1 to one of its ranks does, without knowing where they
are. Exit status 0 once the request is there, 1 where nobody is running it.
"""

import getpass
import socket

from taidscale.commands.outcome import fail
from taidscale.commands.parser import run_parser


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 2 for a user's error."""
    options = run_parser("stop", __doc__).parse_intermixed_args(arguments)
    # Late, as in all commands: --help need not wait for it.
    from taidscale.config.load import load_config
    from taidscale.durable import replace_file
    from taidscale.file_names import STOP_FILE
    from taidscale.run.status import in_use

    try:
        run_dir = load_config(options.config, options.overrides).run_dir
    except ValueError as error:
        return fail(str(error))
    if not in_use(run_dir):
        print(f"nobody is running {run_dir}")
        return 1
    request = f"asked by {getpass.getuser()} on {socket.gethostname()}\n"
    try:
        replace_file(run_dir / STOP_FILE, request, shared=True)
    except OSError as error:
        return fail(f"cannot write to {run_dir}: {error}")
    print(f"asked: {run_dir} saves and ends after its step")
    return 0

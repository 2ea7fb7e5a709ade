"""Ask a run to save and end after its step: `python -m taidscale.stop CONFIG [overrides]`.

From any host that sees `run_dir`: what SIGUSR1 to one of its ranks does, without knowing where they
are. Exit status 0 once the request is there, 1 where nobody is running it.
"""

import argparse
import getpass
import os
import socket
import sys

from taidscale.config.load import load_config
from taidscale.run_status import STOP_FILE, in_use


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 2 for a user's error."""
    parser = argparse.ArgumentParser(
        prog="taidscale.stop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="YAML file of the run")
    parser.add_argument("overrides", nargs="*", help="section.setting=value")
    options = parser.parse_intermixed_args(arguments)
    try:
        run_dir = load_config(options.config, options.overrides).run_dir
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not in_use(run_dir):
        print(f"nobody is running {run_dir}")
        return 1
    aside = run_dir / f"{STOP_FILE}.{socket.gethostname()}.{os.getpid()}.partial"
    try:
        aside.write_text(f"asked by {getpass.getuser()} on {socket.gethostname()}\n", "utf-8")
        os.replace(aside, run_dir / STOP_FILE)
    except OSError as error:
        print(f"error: cannot write to {run_dir}: {error}", file=sys.stderr)
        return 2
    print(f"asked: {run_dir} saves and ends after its step")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Should the same command be started again? `taidscale restart CONFIG [overrides]`.

Exit status 0 if so, 1 if not; one line says why. For scripts that start runs, once their last start
has ended: it waits for ranks that outlive their launcher, and a yes counts as a start.
"""

import sys
import time

from taidscale.commands.parser import run_parser


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = run_parser("restart", __doc__)
    parser.add_argument(
        "--no-count",
        action="store_true",
        help="on all nodes but the first, where several start the same run",
    )
    options = parser.parse_intermixed_args(arguments)
    # Late, as in all commands: --help need not wait for it.
    from taidscale.config.load import load_config
    from taidscale.run.status import ask_to_start, in_use, newest_step

    try:
        config = load_config(options.config, options.overrides)
    except ValueError as error:
        print(f"no: {error}", file=sys.stderr)
        return 1
    # Ranks of other nodes may hang for so long before they end themselves.
    deadline = time.monotonic() + config.health.hang_minutes * 60 + 60
    waiting = False
    while in_use(config.run_dir):
        if time.monotonic() > deadline:
            print(f"no: {config.run_dir} is in use by another start")
            return 1
        if not waiting:
            print(f"{config.run_dir} is in use; waiting for ranks that have not ended", flush=True)
        waiting = True
        time.sleep(1)
    step = newest_step(config.run_dir)
    again, why = ask_to_start(config.run_dir, step, count=not options.no_count)
    print(f"{'yes' if again else 'no'}: {why}")
    return 0 if again else 1

"""Show what a checkpoint holds: how far the run was, who wrote it with what, and if it is whole.

taidscale show RUN_DIR [--config YAML] [--verify]
taidscale show RUN_DIR/checkpoints/step-00000100 [--config YAML] [--verify]

Of a run, a table of all its checkpoints, and the newest whole one. The exit status is 2 where one
is damaged.
"""

from pathlib import Path

from taidscale.commands.outcome import USER_ERROR, fail
from taidscale.commands.parser import command_parser


def main(arguments: list[str] | None = None) -> int:
    """Run; what is wrong is one line each on stderr, with status 2."""
    parser = command_parser("show", __doc__)
    parser.add_argument("folder", type=Path, help="of a run, or of one checkpoint")
    parser.add_argument(
        "--config", metavar="YAML", help="compare its settings; default: the run's config.yaml"
    )
    parser.add_argument("--verify", action="store_true", help="read every file, compare its hash")
    options = parser.parse_args(arguments)
    from taidscale.commands.work.show import show  # late: --help need not wait for it

    try:
        problems = show(options)
    except (ValueError, OSError) as error:
        problems = [str(error)]
    for problem in problems:
        fail(problem)
    return USER_ERROR if problems else 0

"""Export a run's student to a Hugging Face folder.

taidscale export RUN_DIR OUT [--step N] [--dtype bf16|fp32] [--max-shard-size 5GB]
"""

from pathlib import Path

from taidscale.commands.outcome import fail
from taidscale.commands.parser import command_parser


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 2 for a user's error."""
    parser = command_parser("export", __doc__)
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--step", type=int, help="checkpoint to take; the newest by default")
    parser.add_argument("--dtype", choices=["bf16", "fp32"], help="default: the run's precision")
    parser.add_argument("--max-shard-size", default="5GB", help="of one weight file")
    options = parser.parse_args(arguments)
    from taidscale.commands.work.export import export  # late: --help waits for no torch

    try:
        export(options)
    except ValueError as error:
        return fail(str(error))
    return 0

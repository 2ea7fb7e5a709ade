"""Show what prepared data hold, and check them.

taidscale inspect FOLDER... [--draw lengths.png] [--model FOLDER] [--verify]
taidscale inspect configs/RUN.yaml

Lengths are those of pieces of documents: a document that the end of a sample cuts is several.
The exit status is 2 where something does not fit.
"""

from argparse import Namespace

from taidscale.commands.outcome import USER_ERROR, fail
from taidscale.commands.parser import command_parser


def parse_arguments(arguments: list[str] | None) -> Namespace:
    """What the command line says."""
    parser = command_parser("inspect", __doc__)
    parser.add_argument(
        "data", nargs="+", metavar="FOLDER", help="prepared data, or the YAML file of a run"
    )
    parser.add_argument("--tokenizer", help="decodes samples; default: the one in the manifest")
    parser.add_argument("--model", help="folder of a model whose vocabulary the data must fit")
    parser.add_argument("--samples", type=int, default=3, help="to show; default: 3")
    parser.add_argument(
        "--characters", type=int, default=400, help="to show of each document; default: 400"
    )
    parser.add_argument(
        "--max-samples", type=int, default=20_000, help="to read of each folder; default: 20,000"
    )
    parser.add_argument("--draw", metavar="PNG", help="write a drawing of the lengths")
    parser.add_argument("--verify", action="store_true", help="read every shard, compare its hash")
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run; what is wrong is one line each on stderr, with status 2."""
    options = parse_arguments(arguments)
    if options.max_samples < 1 or options.samples < 0 or options.characters < 4:
        return fail("--max-samples, --samples and --characters must be positive")
    from taidscale.commands.work.inspect import inspect  # late: --help waits for no torch

    try:
        problems = inspect(options)
    except (ValueError, OSError) as error:
        problems = [str(error)]
    for problem in problems:
        fail(problem)
    return USER_ERROR if problems else 0

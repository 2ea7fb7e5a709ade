"""Show how runs go: one page that needs nothing beside it, and pictures.

taidscale report RUN_DIR... [--out FOLDER] [--follow [SECONDS]]

Several runs are laid over each other. The page opens from disk, and can be sent as it is.
--follow writes it again and again until the runs have ended.
"""

from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

from taidscale.commands.outcome import fail
from taidscale.commands.parser import command_parser

FOLLOW_SECONDS = 30.0


def parse_arguments(arguments: list[str] | None) -> Namespace:
    """What the command line says."""
    parser = command_parser("report", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="folder of a run")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where report.html and the PNGs go; default: `report` in the first run's folder",
    )
    parser.add_argument(
        "--follow",
        nargs="?",
        type=float,
        const=FOLLOW_SECONDS,
        metavar="SECONDS",
        help=f"write again so often, until the runs have ended; default: {FOLLOW_SECONDS:g}",
    )
    parser.add_argument(
        "--peak-tflops",
        type=float,
        metavar="X",
        help="of one GPU, for the MFU; default: dense bf16 of the GPU by its name",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run; what is wrong is one line on stderr, with status 2."""
    options = parse_arguments(arguments)
    for name in ("follow", "peak_tflops"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            return fail(f"--{name.replace('_', '-')} must be more than 0 (got {value:g})")
    if find_spec("matplotlib") is None:
        return fail("drawing needs matplotlib; install it: pip install matplotlib")
    from taidscale.commands.work.report import report  # late: matplotlib is optional, and dear

    try:
        report(options)
    except ValueError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        print("stopped; the page stays as it is")
    return 0

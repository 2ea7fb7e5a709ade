"""Publish an exported student on the Hugging Face Hub, in a private repository by default.

taidscale publish FOLDER OWNER/NAME --dry-run      # shows what would be sent, offline
taidscale publish FOLDER OWNER/NAME [--public] [--run RUN_DIR] [--evaluation RESULTS.json]

FOLDER is what `taidscale export` has written. Its README.md, the model card, is completed with what
the options give; what people have written in it stays. All files come in one commit. The same
command goes on after an interruption: what has arrived is not sent again.
"""

from argparse import Namespace
from pathlib import Path

from taidscale.commands.outcome import fail
from taidscale.commands.parser import command_parser


def parse_arguments(arguments: list[str] | None) -> Namespace:
    """What the command line says."""
    parser = command_parser("publish", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="an exported model")
    parser.add_argument("repo_id", metavar="REPO_ID", help="OWNER/NAME on the Hub")
    parser.add_argument(
        "--run", type=Path, metavar="RUN_DIR", help="write the card's part about the run anew"
    )
    parser.add_argument(
        "--evaluation",
        type=Path,
        metavar="FILE",
        help="results for the card: Markdown, or JSON as lm_eval writes it",
    )
    parser.add_argument("--public", action="store_true", help="everybody may see it")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be sent")
    parser.add_argument("--license", help="where the card names none, e.g. apache-2.0")
    parser.add_argument("--language", nargs="+", metavar="CODE", help="for the card: ja en")
    parser.add_argument("--revision", default="main", help="branch; default: main")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run; what is wrong is one line on stderr, with status 2."""
    options = parse_arguments(arguments)
    from taidscale.commands.work.publish import publish  # late: --help waits for no torch

    try:
        publish(options)
    except (ValueError, OSError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return fail("interrupted; run the same command again to go on")
    return 0

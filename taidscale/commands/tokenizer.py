"""Train a tokenizer that SentencePiece and Hugging Face read alike.

taidscale tokenizer INPUT... --vocab-size 32000 --out FOLDER

The folder holds `tokenizer.model` and the files of a Hugging Face tokenizer, which give the
same ids; it appears when that has been checked. Any text is got back from its ids.
"""

from argparse import Namespace

from taidscale.commands.outcome import fail
from taidscale.commands.parser import command_parser


def parse_arguments(arguments: list[str] | None) -> Namespace:
    """What the command line says."""
    parser = command_parser("tokenizer", __doc__)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=".txt, .jsonl, .ndjson or .json of lines (all also .gz, .zst, .bz2 or .xz) or "
        ".parquet files, globs, folders of datasets.save_to_disk, or datasets:NAME[:CONFIG]",
    )
    parser.add_argument("--out", required=True, help="folder to write; absent or empty")
    parser.add_argument("--vocab-size", type=int, required=True, help="tokens in all")
    parser.add_argument("--kind", choices=["bpe", "unigram"], default="bpe", help="default: bpe")
    parser.add_argument(
        "--symbols", nargs="+", default=[], help="always one token, such as '<|im_start|>'"
    )
    parser.add_argument(
        "--keep-numbers", action="store_true", help="tokens of several digits; default: of one"
    )
    parser.add_argument(
        "--character-coverage",
        type=float,
        default=0.9995,
        help="share of the text whose characters are tokens, others are bytes; default: 0.9995",
    )
    parser.add_argument(
        "--sample-mb",
        type=float,
        default=200.0,
        help="train on a random part of so many megabytes, which memory must hold; default: 200",
    )
    parser.add_argument("--seed", type=int, default=0, help="of that choice; default: 0")
    parser.add_argument("--compare", help="another tokenizer for the table at the end")
    parser.add_argument("--text-column", default="text", help="default: text")
    parser.add_argument("--split-on", help="ends a document inside a text file; \\n is a new line")
    parser.add_argument("--split", default="train", help="of a dataset; default: train")
    parser.add_argument("--max-documents", type=int, help="read so many")
    parser.add_argument("--on-error", choices=["stop", "skip"], default="stop")
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run; a mistake of the user is one line on stderr and status 2."""
    options = parse_arguments(arguments)
    from taidscale.commands.work.tokenizer import train_tokenizer  # late: --help need not wait

    try:
        train_tokenizer(options)
    except (ValueError, OSError) as error:
        return fail(str(error))
    return 0

"""Turn text or chats into MDS shards of token ids that a run can read.

Ended at any time, the same command goes on where it stopped.
"""

import multiprocessing
import os
import sys
from argparse import Namespace

from taidscale.commands.outcome import end_at_once, fail
from taidscale.commands.parser import command_parser

INTERRUPTED = 130


def parse_arguments(arguments: list[str] | None) -> Namespace:
    """What the command line says."""
    parser = command_parser("prepare", __doc__)
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=".txt, .jsonl, .ndjson or .json of lines (all also .gz, .zst, .bz2 or .xz) or "
        ".parquet files, globs, folders of datasets.save_to_disk, or datasets:NAME[:CONFIG]",
    )
    add(
        "--tokenizer",
        required=True,
        help="folder or Hub id of a Hugging Face tokenizer, or a SentencePiece .model file",
    )
    add("--revision", help="of the tokenizer on the Hub")
    add("--seq-len", type=int, required=True, help="tokens that a sample predicts")
    add("--out", required=True, help="folder to write, absent or empty, or s3://bucket/folder")
    add("--scratch", help="local folder for what is not uploaded yet, if --out is in a bucket")
    add("--text-column", default="text", help="default: text")
    add("--chat-column", help="lists of messages with role and content, in place of texts")
    add("--loss-on", choices=("assistant", "all"), default="all", help="of chats; default: all")
    add("--split-on", help="ends a document inside a text file; \\n is a new line")
    add("--split", default="train", help="of a dataset; default: train")
    add(
        "--packing",
        choices=("concatenate", "best_fit"),
        default="concatenate",
        help="fill each sample and cut documents, or keep documents whole and pad; "
        "default: concatenate",
    )
    add("--bos", action="store_true", help="put the tokenizer's bos before documents")
    add("--separator-id", type=int, help="id after each document; default: what ends a text")
    for unit in ("characters", "tokens"):
        add(f"--min-{unit}", type=int, metavar="N", help="leave out documents with fewer")
        add(f"--max-{unit}", type=int, metavar="N", help="leave out documents with more")
    add("--max-documents", type=int, metavar="N", help="read no more records than these")
    add(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="what to do about a record that cannot be used; default: stop",
    )
    add(
        "--allow-unknown",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="of the characters that the tokenizer need not know; default: 0.02",
    )
    cores = len(os.sched_getaffinity(0))
    add("--workers", type=int, default=cores, help=f"processes; default: all cores ({cores})")
    add("--part-mb", type=int, default=32, help="MiB of text that are one piece; default: 32")
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run; a mistake of the user is one line on stderr and status 2."""
    options = parse_arguments(arguments)
    # Imported once, for all workers.
    multiprocessing.set_forkserver_preload(["streaming", "transformers"])
    from taidscale.commands.work.prepare import run  # late: --help waits for no torch

    try:
        run(options)
    except (ValueError, OSError) as error:
        end_at_once(fail(str(error)))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        end_at_once(INTERRUPTED)
    return 0

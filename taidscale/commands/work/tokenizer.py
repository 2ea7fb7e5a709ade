"""Train a tokenizer that SentencePiece and Hugging Face read alike.

python tools/train_tokenizer.py INPUT... --vocab-size 32000 --out FOLDER

The folder holds `tokenizer.model` and the files of a Hugging Face tokenizer, which give the
same ids; it appears when that has been checked. Any text is got back from its ids.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taidscale.data.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a bare clone

MEGABYTE = 10**6
CHECKED_BYTES = 5 * MEGABYTE
HELD_OUT_SHARE = 100


def parse_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    return parser.parse_intermixed_args()


def train_tokenizer(options: argparse.Namespace) -> None:
    """Read, train, check, write, and print how well it does."""
    from taidscale.data.corpus.convert_tokenizer import to_hugging_face
    from taidscale.data.corpus.parts import free_folder
    from taidscale.data.corpus.train_tokenizer import (
        check_agreement,
        check_symbols,
        difficult_texts,
        train,
        word_splitter,
    )
    from taidscale.data.tokenizer import load_tokenizer

    folder = free_folder(options.out)
    check_symbols(options.symbols)
    rival = load_tokenizer(options.compare) if options.compare else None
    start = monotonic()
    texts = read_sample(options)
    num_held_out = len(texts) // HELD_OUT_SHARE
    training, held_out = texts[num_held_out:], texts[:num_held_out]
    print(f"{monotonic() - start:7.1f} s  training on {len(training):,} documents", flush=True)
    split_digits = not options.keep_numbers
    model = train(
        training,
        options.vocab_size,
        kind=options.kind,
        symbols=options.symbols,
        split_digits=split_digits,
        character_coverage=options.character_coverage,
    )
    print(f"{monotonic() - start:7.1f} s  comparing both libraries", flush=True)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        to_hugging_face(model, word_splitter(split_digits=split_digits)).save_pretrained(partial)
        (partial / "tokenizer.model").write_bytes(model.SerializeToString())
        tokenizer = load_tokenizer(str(partial))
        checked = [*difficult_texts(options.symbols), *head(texts, CHECKED_BYTES)]
        num_tokens = check_agreement(
            tokenizer, load_tokenizer(str(partial / "tokenizer.model")), checked
        )
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    seconds = monotonic() - start
    print(
        f"{seconds:7.1f} s  the same {num_tokens:,} tokens for {len(checked):,} texts, and "
        "every text got back"
    )
    measured = head(held_out or training, CHECKED_BYTES)
    print(f"\non {len(measured):,} {'held-out' if held_out else 'TRAINING'} documents")
    print_table({options.out: tokenizer} | ({options.compare: rival} if rival else {}), measured)


def read_sample(options: argparse.Namespace) -> list[str]:
    """The documents that all is done with, in random order."""
    from tqdm import tqdm

    from taidscale.data.corpus.documents import Reading, Sources
    from taidscale.data.corpus.train_tokenizer import choose_sample
    from taidscale.data.counts import Counts, stop

    counts = Counts()
    split_on = options.split_on
    reading = Reading(
        text_column=options.text_column,
        split_on=None if split_on is None else split_on.replace("\\n", "\n"),
        split=options.split,
        max_documents=options.max_documents,
    )
    documents = Sources(options.inputs, reading).texts(
        stop if options.on_error == "stop" else counts.skip
    )
    with tqdm(documents, unit=" documents") as bar:
        texts = choose_sample(bar, int(options.sample_mb * MEGABYTE), options.seed)
    for reason, number in counts.skipped.items():
        print(f"{number:,} skipped: {reason}")
    return texts


def head(texts: Sequence[str], num_bytes: int) -> list[str]:
    """The first texts of so many bytes together, one at least."""
    chosen = []
    for text in texts:
        chosen.append(text)
        num_bytes -= len(text.encode())
        if num_bytes < 0:
            break
    return chosen


def print_table(tokenizers: "dict[str, Tokenizer]", texts: list[str]) -> None:
    """How many tokens each makes of some texts, what it loses of them, and how fast."""
    from taidscale.data.counts import Counts
    from taidscale.data.unknown import check_unknown, find_unknown, unknown_share

    num_bytes, num_characters = sum(len(t.encode()) for t in texts), sum(map(len, texts))
    width = max(len("tokenizer"), *map(len, tokenizers))
    print(
        f"{'tokenizer':{width}}{'vocabulary':>12}{'bytes/token':>13}{'tokens/character':>18}"
        f"{'unknown':>9}{'MB/s':>7}"
    )
    for name, tokenizer in tokenizers.items():
        start = monotonic()
        encoded = tokenizer.encode_batch(texts)
        speed = num_bytes / MEGABYTE / (monotonic() - start)
        num_tokens = sum(map(len, encoded))
        counts = Counts(characters=num_characters)
        for number, (text, ids) in enumerate(zip(texts, encoded, strict=True), 1):
            unknown = find_unknown(tokenizer, text, ids)
            counts.add_unknown(unknown.num_tokens, unknown.parts, f"text {number}")
        print(
            f"{name:{width}}{tokenizer.size:>12,}{num_bytes / max(num_tokens, 1):>13.3f}"
            f"{num_tokens / num_characters:>18.3f}{unknown_share(counts):>9.2%}{speed:>7.1f}"
        )
        if warning := check_unknown(counts, name, 1.0, ""):
            print(f"warning: {warning}", file=sys.stderr)


def main() -> int:
    """Run; a mistake of the user is one line on stderr and status 2."""
    options = parse_arguments()
    try:
        train_tokenizer(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Turn text into MDS shards of token ids that a run can read."""

import argparse
import sys
from itertools import islice
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a bare clone


def parse_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=".txt, .jsonl (both also .gz) or .parquet files, globs, folders of "
        "datasets.save_to_disk, or datasets:NAME[:CONFIG]",
    )
    parser.add_argument(
        "--tokenizer",
        required=True,
        help="folder or Hub id of a Hugging Face tokenizer, or a SentencePiece .model file",
    )
    parser.add_argument("--revision", help="of the tokenizer on the Hub")
    parser.add_argument("--seq-len", type=int, required=True, help="tokens that a sample predicts")
    parser.add_argument("--out", required=True, help="folder to write; absent or empty")
    parser.add_argument("--text-column", default="text", help="default: text")
    parser.add_argument("--split-on", help="ends a document inside a text file; \\n is a new line")
    parser.add_argument("--split", default="train", help="of a dataset; default: train")
    parser.add_argument("--separator-id", type=int, help="id after each document; default: eos")
    parser.add_argument("--max-documents", type=int, help="stop after so many")
    return parser.parse_intermixed_args()


def prepare(arguments: argparse.Namespace) -> None:
    """Read, tokenize, pack, write, and print what was done."""
    # Late, so that --help need not wait for them.
    from tqdm import tqdm

    from taidscale.data.documents import Documents
    from taidscale.data.shards import write_shards
    from taidscale.data.tokenizer import load_tokenizer

    if arguments.max_documents is not None and arguments.max_documents < 1:
        raise ValueError(f"--max-documents ({arguments.max_documents}) must be positive")
    split_on = arguments.split_on
    documents = Documents(
        arguments.inputs,
        text_column=arguments.text_column,
        split_on=None if split_on is None else split_on.replace("\\n", "\n"),
        split=arguments.split,
    )
    tokenizer = load_tokenizer(arguments.tokenizer, arguments.revision)
    start = monotonic()
    with tqdm(unit=" documents") as bar:

        def show(num_documents: int, num_tokens: int) -> None:
            rate = num_tokens / max(monotonic() - start, 1e-9)
            bar.set_postfix_str(f"{num_tokens:,} tokens, {rate:,.0f} tokens/s", refresh=False)
            bar.update(num_documents - bar.n)

        manifest = write_shards(
            islice(documents, arguments.max_documents),
            tokenizer,
            arguments.seq_len,
            arguments.out,
            separator_id=arguments.separator_id,
            sources=arguments.inputs,
            progress=show,
        )
    folder = Path(arguments.out).expanduser()
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    print(f"documents      {manifest.num_documents:,} ({documents.num_empty:,} empty ones skipped)")
    print(f"tokens         {manifest.num_tokens:,}")
    print(f"samples        {manifest.num_samples:,} of {manifest.seq_len:,} + 1 tokens")
    print(f"dropped tokens {manifest.num_dropped_tokens:,}")
    print(f"bytes          {num_bytes:,}")
    print(f"path           {arguments.out}")


def main() -> int:
    """Run; a mistake of the user is one line on stderr and status 2."""
    try:
        prepare(parse_arguments())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Turn text or chats into MDS shards of token ids that a run can read.

Ended at any time, the same command goes on where it stopped.
"""

import argparse
import multiprocessing
import os
import sys
from pathlib import Path
from time import monotonic
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a bare clone

INTERRUPTED = 130


def parse_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
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
    return parser.parse_intermixed_args()


def run(arguments: argparse.Namespace) -> None:
    """Prepare, and print what was done."""
    # Late, so that --help need not wait for them.
    from pydantic import ValidationError
    from tqdm import tqdm

    from taidscale.data.corpus.documents import Reading
    from taidscale.data.corpus.encoding import EncodingSettings
    from taidscale.data.corpus.part_maker import Progress
    from taidscale.data.corpus.prepare import prepare
    from taidscale.data.unknown import check_unknown

    given = vars(arguments) | {"block_bytes": arguments.part_mb << 20}
    if arguments.split_on is not None:
        given["split_on"] = arguments.split_on.replace("\\n", "\n")
    try:
        reading, encoding = (
            model(**{name: given[name] for name in model.model_fields})
            for model in (Reading, EncodingSettings)
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("block_bytes", "part_mb").replace("_", "-")
        raise ValueError(f"--{name}: {first['msg']}, not {first['input']!r}") from None
    start = monotonic()
    done = {"documents": 0, "tokens": 0}

    def rates() -> dict[str, float]:
        return {name: number / (monotonic() - start) for name, number in done.items()}

    with tqdm(unit="B", unit_scale=True, unit_divisor=1024) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.bytes_total
            known = progress.bytes_total is not None
            step = progress.bytes_done - bar.n if known else progress.counts.raw_bytes
            if progress.is_new:
                done["documents"] += progress.counts.documents
                done["tokens"] += progress.counts.tokens
                text = ", ".join(f"{rate:,.0f} {name}/s" for name, rate in rates().items())
                bar.set_postfix_str(text, refresh=False)
            else:  # what was done before says nothing about the time that is left
                bar.initial += step
            bar.update(step)

        manifest = prepare(
            arguments.inputs,
            arguments.out,
            reading,
            encoding,
            seq_len=arguments.seq_len,
            packing=arguments.packing,
            separator_id=arguments.separator_id,
            bos=arguments.bos,
            num_workers=arguments.workers,
            scratch=arguments.scratch,
            allow_unknown=arguments.allow_unknown,
            progress=show,
        )
    report(manifest, rates()["tokens"], arguments.out)
    if warning := check_unknown(manifest.counts, manifest.tokenizer, 1.0, ""):
        print(f"warning: {warning}", file=sys.stderr)


def report(manifest: Any, rate: float, out: str) -> None:
    """Print what is in the shards and what is not."""
    from taidscale.data.unknown import describe_unknown

    counts = manifest.counts
    places = manifest.num_samples * (manifest.seq_len + 1)
    figures = {
        "documents": f"{manifest.num_documents:,} ({counts.empty:,} empty ones skipped)",
        "tokens": f"{manifest.num_tokens:,}",
        "unknown": describe_unknown(counts),
        "trained on": f"{manifest.num_weighted_tokens / manifest.num_tokens:.1%} of the tokens",
        "samples": f"{manifest.num_samples:,} of {manifest.seq_len:,} + 1 tokens",
        "padding": f"{manifest.num_padding_tokens / places:.2%}",
        "cut documents": f"{manifest.num_split_documents:,}, longer than a sample",
        "dropped tokens": f"{manifest.num_dropped_tokens:,}",
        "read": f"{counts.raw_bytes:,} bytes",
        "bytes": f"{sum(shard.bytes for shard in manifest.shards):,}",
        "speed": f"{rate:,.0f} tokens/s",
    }
    if not manifest.has_weights:
        del figures["trained on"]
    if manifest.packing == "concatenate":
        del figures["padding"], figures["cut documents"]
    for kind in ("filtered", "skipped"):
        for reason, number in getattr(counts, kind).items():
            figures[f"{kind}: {reason}"] = f"{number:,}"
    width = max(map(len, figures)) + 2
    for name, figure in figures.items():
        print(f"{name:{width}}{figure}")
    if counts.places:
        print("skipped first:")
        for place in counts.places:
            print(f"  {place}")
    for remark in manifest.remarks:
        print(f"note: {remark}")
    print(f"{'path':{width}}{out}")


def main() -> int:
    """Run; a mistake of the user is one line on stderr and status 2."""
    # Imported once, for all workers.
    multiprocessing.set_forkserver_preload(["streaming", "transformers"])
    try:
        run(parse_arguments())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast is preparing data, measured by what its tokenizer alone can do?

python benchmarks/prepare.py MATERIAL [--megabytes 48] [--repeats 3] [--out DIR]

On the same core or cores, one after the other: `encode_batch_fast` of Hugging Face's tokenizers,
to lists of ids, over texts that are in memory, and all of `prepare` (read, parse, encode, pack,
write, hash) with as many workers, without the first quarter, in which they start. The last two
columns are tokens per second, and per second of processor time, divided by those of the tokenizer
alone; the latter does not depend on what else the machine does.

MATERIAL holds `tokenizers` and `corpora`.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a bare clone

TOKENIZERS = ("qwen2.5", "llm-jp-v2.2-50k")
SEQ_LEN = 4096
BATCH_CHARACTERS = 1 << 20
NUM_PARTS = 16


def main() -> None:
    """Measure in processes of their own, print, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("material", type=Path)
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA), choices=list(CORPORA))
    parser.add_argument("--tokenizers", nargs="+", default=TOKENIZERS, choices=TOKENIZERS)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--packing", default="concatenate", choices=("concatenate", "best_fit"))
    parser.add_argument("--megabytes", type=float, default=48, help="of text; default: 48")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for prepare.md")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(MEASURES[options.measure](**json.loads(sys.stdin.read()))))
        return
    table = [
        f"{options.packing}, {options.megabytes:g} MB of each corpus, "
        f"medians of {options.repeats}; M = 10^6",
        "",
        "| corpus | tokenizer | cores | alone MB/s | prepare MB/s | prepare M tokens/s per core "
        "| ratio | ratio of processor time |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(table), flush=True)
    with TemporaryDirectory() as folder:
        for corpus in options.corpora:
            path = Path(folder) / f"{corpus}.jsonl"
            num_bytes = write_corpus(options.material / "corpora", corpus, path, options.megabytes)
            for name in options.tokenizers:
                tokenizer = str(options.material / "tokenizers" / name)
                for cores in options.cores:
                    given = {"text": str(path), "tokenizer": tokenizer, "cores": cores}
                    row = measure(given, options.packing, num_bytes, options.repeats)
                    table.append(f"| {corpus} | {name} | {cores} {row}")
                    print(table[-1], flush=True)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "prepare.md").write_text("\n".join([*table, ""]))


def measure(given: dict[str, Any], packing: str, num_bytes: int, repeats: int) -> str:
    """Both, in turns; the end of a row of the table."""
    found: dict[str, list[dict[str, float]]] = {"alone": [], "prepare": []}
    for _ in range(repeats):
        for name, more in (("alone", {}), ("prepare", {"packing": packing})):
            done = subprocess.run(
                [sys.executable, __file__, ".", "--measure", name],
                input=json.dumps(given | more),
                env=os.environ | {"RAYON_NUM_THREADS": str(given["cores"])},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))

    def rates(name: str, unit: str) -> list[float]:
        return [result["tokens"] / result[unit] for result in found[name]]

    def ratio(unit: str) -> float:
        pairs = zip(rates("prepare", unit), rates("alone", unit), strict=True)
        return median(prepared / alone for prepared, alone in pairs)

    alone, prepared = (median(rates(name, "seconds")) for name in ("alone", "prepare"))
    megabytes = num_bytes / found["alone"][0]["tokens"] / 1e6
    return (
        f"| {alone * megabytes:.2f} | {prepared * megabytes:.2f} "
        f"| {prepared / given['cores'] / 1e6:.3f} | {ratio('seconds'):.2f} | {ratio('busy'):.2f} |"
    )


# --- what is measured -----------------------------------------------------------------


def run_alone(text: str, tokenizer: str, cores: int) -> dict[str, float]:
    """The tokenizer, with a thread on each core."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if cores > 1 else "false"
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(Path(tokenizer) / "tokenizer.json"))
    backend.encode_special_tokens = True
    with Path(text).open() as file:
        batches = list(batch(json.loads(line)["text"] for line in file))
    backend.encode_batch_fast(batches[0], add_special_tokens=False)
    seconds = busy = num_tokens = 0.0
    for texts in batches:
        start, start_busy = perf_counter(), process_time()
        encoded = [x.ids for x in backend.encode_batch_fast(texts, add_special_tokens=False)]
        seconds += perf_counter() - start
        busy += process_time() - start_busy
        num_tokens += sum(map(len, encoded))
    return {"tokens": num_tokens, "seconds": seconds, "busy": busy}


def run_prepare(text: str, tokenizer: str, cores: int, packing: Any) -> dict[str, float]:
    """All of it, with a worker on each core."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    from taidscale.corpus.documents import Reading
    from taidscale.corpus.encoding import EncodingSettings
    from taidscale.corpus.part_maker import Progress
    from taidscale.corpus.prepare import prepare
    from taidscale.corpus.workers import start_workers

    multiprocessing.set_forkserver_preload(["streaming", "transformers"])  # as the tool does
    with start_workers(1) as workers:
        workers.submit(os.getpid).result()

    times, busy, tokens = [], [], []

    def note(progress: Progress) -> None:
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        times.append(perf_counter())
        busy.append(sum(sum(process.cpu_times()[:2]) for process in processes))
        tokens.append(progress.counts.tokens)

    with TemporaryDirectory() as folder:
        prepare(
            [text],
            Path(folder) / "out",
            Reading(block_bytes=Path(text).stat().st_size // NUM_PARTS),
            EncodingSettings(tokenizer=tokenizer),
            seq_len=SEQ_LEN,
            packing=packing,
            num_workers=cores,
            progress=note,
        )
    first = len(times) // 4  # all workers have come by then
    return {
        "tokens": sum(tokens[first + 1 :]),
        "seconds": times[-1] - times[first],
        "busy": busy[-1] - busy[first],
    }


MEASURES = {"alone": run_alone, "prepare": run_prepare}


def batch(texts: Iterator[str]) -> Iterator[list[str]]:
    """Some texts at a time, as memory allows no more."""
    some: list[str] = []
    for text in texts:
        some.append(text)
        if sum(map(len, some)) >= BATCH_CHARACTERS:
            yield some
            some = []
    if some:
        yield some


# --- texts ----------------------------------------------------------------------------


def aozora(corpora: Path) -> Iterator[str]:
    """Japanese literature, a work a document."""
    with gzip.open(corpora / "ja" / "aozora.jsonl.gz", "rt") as file:
        yield from (json.loads(line)["text"] for line in file)


def c4(corpora: Path) -> Iterator[str]:
    """Web pages."""
    with (corpora / "en" / "c4_demo.jsonl").open() as file:
        yield from (json.loads(line)["text"] for line in file)


def wikitext(corpora: Path) -> Iterator[str]:
    """Encyclopedia, a paragraph a document."""
    for path in sorted((corpora / "en").glob("wikitext2-*.txt")):
        yield from filter(str.strip, path.read_text().splitlines())


def gutenberg(corpora: Path) -> Iterator[str]:
    """Books, a book a document."""
    for path in sorted((corpora / "en" / "gutenberg").glob("*.txt")):
        yield path.read_text()


CORPORA = {"aozora": aozora, "wikitext": wikitext, "c4": c4, "gutenberg": gutenberg}


def write_corpus(corpora: Path, name: str, path: Path, megabytes: float) -> int:
    """Write a corpus as JSONL, cut or repeated to a size; the bytes of its text."""
    num_bytes = 0
    with path.open("w") as file:
        while num_bytes < megabytes * 1e6:
            for text in CORPORA[name](corpora):
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                num_bytes += len(text.encode())
                if num_bytes >= megabytes * 1e6:
                    break
    return num_bytes


if __name__ == "__main__":
    main()

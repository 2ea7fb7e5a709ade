"""Tokens per second and core of the training loader, against a raw memory-mapped read.

`python benchmarks/loader.py [--samples 16384] [--out DIR]`: writes shards of documents of random
lengths at seq_len 4,096, then reads micro-batches of 4 in the order of a training run:

- memmap: the same rows of one NumPy memory map, as int64 tensors of inputs and labels;
- loader: `TrainingLoader` in the training process itself, so on one core;
- loader, weights and documents: with per-token weights and attention within documents;
- loader, 2 workers: what arrives from two loader processes.

All in one run, in turns, median of several. The page cache is warm for all.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a bare clone

import numpy as np
import torch
from streaming import MDSWriter

from taidscale.config.data import DataConfig
from taidscale.data import sample_columns
from taidscale.data.loader import TrainingLoader

SEQ_LEN, MICRO_BATCH, VOCAB_SIZE = 4096, 4, 151_936
ROWS_A_TURN = 1024
NEEDED = 8 * 20_000
"""Tokens per second of a node of 8 GPUs."""


def write(folder: Path, num_samples: int, *, has_weights: bool) -> None:
    """MDS shards of 64 MiB, and once the plain rows."""
    chance = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(
        folder / "rows.npy", "w+", np.uint32, (num_samples, SEQ_LEN + 1)
    )
    columns = sample_columns.columns(SEQ_LEN, VOCAB_SIZE, has_weights=has_weights)
    with MDSWriter(columns=columns, out=str(folder / "mds"), hashes=["xxh64"]) as writer:
        for row in rows:
            row[:] = chance.integers(0, VOCAB_SIZE, SEQ_LEN + 1)
            cuts = np.sort(chance.choice(SEQ_LEN, 6, replace=False)) + 1
            lengths = np.diff(np.concatenate([[0], cuts, [SEQ_LEN + 1]])).astype(np.int32)
            entry = {sample_columns.TOKENS: row, sample_columns.DOCUMENTS: lengths}
            if has_weights:
                entry[sample_columns.WEIGHTS] = np.ones(SEQ_LEN + 1, np.float16)
            writer.write(entry)


def from_memmap(folder: Path) -> Iterator[Any]:
    """Random rows of the plain file."""
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    order = np.random.default_rng(1).permutation(len(rows))
    while True:
        for start in range(0, len(order) - MICRO_BATCH + 1, MICRO_BATCH):
            picked = np.sort(order[start : start + MICRO_BATCH])
            tokens = torch.from_numpy(rows[picked].astype(np.int64))
            yield tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def from_loader(folder: Path, **settings: Any) -> Iterator[Any]:
    """Micro-batches of a run."""
    config = {"streams": [{"local": str(folder / "mds")}], "num_workers": 0, **settings}
    loader = TrainingLoader(
        DataConfig.model_validate(config),
        seq_len=SEQ_LEN,
        micro_batch_size=MICRO_BATCH,
        grad_accum_steps=1,
        seed=0,
        vocab_size=VOCAB_SIZE,
    )
    while True:
        yield loader.next_step()


def rate(batches: Iterator[Any]) -> float:
    """Tokens per second of one turn."""
    start = time.perf_counter()
    for _ in range(ROWS_A_TURN // MICRO_BATCH):
        next(batches)
    return ROWS_A_TURN * SEQ_LEN / (time.perf_counter() - start)


def main() -> None:
    """Measure, print, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder for loader.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        plain, weighted = Path(scratch, "plain"), Path(scratch, "weighted")
        for folder in (plain, weighted):
            folder.mkdir()
            write(folder, options.samples, has_weights=folder == weighted)
        within = {"attention": "within_document"}
        readers: dict[str, tuple[Callable[[], Iterator[Any]], int]] = {
            "memmap": (lambda: from_memmap(plain), 1),
            "loader": (lambda: from_loader(plain), 1),
            "loader, weights and documents": (lambda: from_loader(weighted, **within), 1),
            "loader, 2 workers": (lambda: from_loader(plain, num_workers=2), 2),
        }
        running = {name: make() for name, (make, _) in readers.items()}
        for batches in running.values():
            rate(batches)  # warms up
        rates: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(options.repeats):
            for name, batches in running.items():
                rates[name].append(rate(batches))
        medians = {name: statistics.median(values) for name, values in rates.items()}
        lines = [
            f"seq_len {SEQ_LEN:,}, micro-batches of {MICRO_BATCH}, {options.samples:,} samples; "
            f"median of {options.repeats}; {date.today()}",
            "",
            "| | tokens/s | to memmap | cores | times what 8 GPUs at 20,000 tokens/s take |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, (_, cores) in readers.items():
            value = medians[name]
            lines.append(
                f"| {name} | {value:,.0f} | {value / medians['memmap']:.2f} | {cores} "
                f"| {value / NEEDED:.0f} |"
            )
        print("\n".join(lines))
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "loader.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

"""Shards that need nothing but the clone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import MDSWriter

from taidscale.data import sample_columns


@pytest.fixture
def numbered_shards(tmp_path: Path) -> Callable[..., Path]:
    """Make shards where each token of sample k is first + k, 4 samples to a shard."""

    def make(num_samples: int, seq_len: int, first: int = 0, name: str = "shards") -> Path:
        rows = range(first, first + num_samples)
        tokens = [np.full(seq_len + 1, row, np.uint32) for row in rows]
        return write_samples(tmp_path / f"{name}-{num_samples}-{seq_len}", tokens)

    return make


def write_samples(
    folder: Path,
    tokens: list[Any],
    documents: list[list[int]] | None = None,
    weights: list[Any] | None = None,
    samples_per_shard: int = 4,
) -> Path:
    """MDS shards of samples as they are; without `documents` each is one piece."""
    length = len(tokens[0])
    columns = sample_columns.columns(length - 1, 1 << 32, has_weights=weights is not None)
    settings = {"columns": columns, "out": str(folder), "hashes": ["xxh64"]}
    samples = []
    for number, row in enumerate(tokens):
        lengths = [length] if documents is None else documents[number]
        entry = {"tokens": np.asarray(row, np.uint32), "documents": np.array(lengths, np.int32)}
        if weights is not None:
            entry["weights"] = np.asarray(weights[number], np.float16)
        samples.append(entry)
    with MDSWriter(**settings) as writer:
        size = len(writer.encode_sample(samples[0])) + 4  # and its place in the shard
        writer.size_limit = writer.extra_bytes_per_shard + 8 + samples_per_shard * size
        for entry in samples:
            writer.write(entry)
    return folder

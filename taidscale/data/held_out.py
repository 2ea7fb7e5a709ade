"""Tokens that no model is trained on here, to measure with.

Shapes: S `seq_len`.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from math import ceil
from pathlib import Path

from streaming import LocalDataset

from taidscale.data.batches import MicroBatch, collate
from taidscale.data.manifest import INDEX_NAME
from taidscale.data.sample_columns import check_columns
from taidscale.home import at_home
from taidscale.labels import IGNORED


class HeldOutLoader:
    """Every held-out sample exactly once over all ranks, in equal batches.

    Each rank yields as many batches `[batch_size, S]`; rows beyond the last sample have
    all labels ignored. It can be iterated again and shares no memory with other loaders.

    Args:
        folder: Shards on this machine.
        seq_len: S.
        batch_size: Rows of a batch.
        rank: This rank.
        world_size: Number of ranks.
        vocab_size: Ids must lie below.
        left_out: Tokens of the data's tokenizer from there on; see `collate`.
        within_document: Whether attention stays within documents.
        max_samples: Use only the first ones.

    Raises:
        ValueError: The folder has no shards, or has other sequences.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        seq_len: int,
        batch_size: int,
        rank: int,
        world_size: int,
        vocab_size: int,
        left_out: Mapping[int, str] | None = None,
        within_document: bool = False,
        max_samples: int | None = None,
    ) -> None:
        """Open the folder."""
        folder = at_home(folder)
        if not (folder / INDEX_NAME).is_file():
            raise ValueError(f"no {INDEX_NAME} in {folder}; correct the path of the held-out data")
        self._dataset = LocalDataset(str(folder))
        check_columns(self._dataset.shards, seq_len)
        size = self._dataset.size
        self.num_samples = size if max_samples is None else min(size, max_samples)
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._folder = folder
        self._collate = partial(
            collate,
            vocab_size=vocab_size,
            left_out=left_out,
            within_document=within_document,
            with_weights=False,
        )

    def __len__(self) -> int:
        """Number of batches, the same on every rank."""
        return ceil(int(self.num_samples) / (self._batch_size * self._world_size))

    def __iter__(self) -> Iterator[MicroBatch]:
        """Read this rank's batches.

        Raises:
            ValueError: A token cannot be measured with.
        """
        for number in range(len(self)):
            first = (number * self._world_size + self._rank) * self._batch_size
            indices = range(first, first + self._batch_size)
            # Sample 0 fills the rows that no sample is left for.
            rows = [self._dataset[i if i < self.num_samples else 0] for i in indices]
            keys = [self._key(i) for i in indices]
            try:
                batch = self._collate(rows, keys)
            except ValueError as error:
                raise ValueError(f"{self._folder}: {error}") from None
            batch.labels[max(self.num_samples - first, 0) :] = IGNORED
            yield batch

    def _key(self, number: int) -> tuple[int, int, int]:
        if number >= self.num_samples:
            return -1, -1, -1
        shard, place = self._dataset.spanner[number]
        return 0, int(shard), place

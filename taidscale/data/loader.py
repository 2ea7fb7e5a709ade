"""The next optimizer step's micro-batches, and where we are in the data.

Shapes: B sequences per rank and micro-batch, S `seq_len`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from streaming import LocalDataset, Stream, StreamingDataLoader, StreamingDataset
from streaming.base.world import World
from torch import Tensor

from taidscale.config.schema import DataConfig
from taidscale.data.shards import COLUMN, INDEX_NAME

IGNORED_LABEL = -100


@dataclass(frozen=True)
class MicroBatch:
    """What one rank computes in one forward.

    Args:
        input_ids: `[B, S]` int64.
        labels: `[B, S]` int64, the next token of each; -100 where it does not count.
    """

    input_ids: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> "MicroBatch":
        """Copy to a device; from pinned memory without waiting for the copy."""
        return MicroBatch(
            self.input_ids.to(device, non_blocking=True), self.labels.to(device, non_blocking=True)
        )


class TrainingLoader:
    """The training samples, epoch after epoch, in an order that the seed fixes.

    An epoch is a whole number of optimizer steps (of micro-batches, where the data do not
    fill a step), so that a run may continue on another number of ranks with the same
    global batches. No sample comes twice in it, except by `proportion`. What does not
    fill its last step, or the rows of `num_canonical_nodes`, is left out; with `shuffle`
    these are other samples in each epoch.

    Args:
        data: Streams and how to read them.
        seq_len: S.
        micro_batch_size: B.
        grad_accum_steps: Micro-batches of a step.
        seed: Fixes the order.

    Cost: some barriers over the world while it is made, nothing afterwards.

    Raises:
        ValueError: A stream is missing or has other sequences, there are too few samples,
            or `num_canonical_nodes` does not fit the number of nodes.
    """

    def __init__(
        self,
        data: DataConfig,
        *,
        seq_len: int,
        micro_batch_size: int,
        grad_accum_steps: int,
        seed: int,
    ) -> None:
        """Open the streams at the first sample."""
        world = World.detect()
        _check_streams(data)
        _check_canonical_nodes(data.num_canonical_nodes, world.num_nodes)
        self._dataset = StreamingDataset(
            streams=[_stream(s.local, s.remote, s.proportion) for s in data.streams],
            batch_size=micro_batch_size,
            shuffle=data.shuffle,
            shuffle_seed=seed,
            num_canonical_nodes=data.num_canonical_nodes,
        )
        _check_rows(self._dataset.shards, seq_len)
        self._loader = StreamingDataLoader(
            self._dataset,
            batch_size=micro_batch_size,
            drop_last=True,
            num_workers=data.num_workers,
            persistent_workers=data.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=_collate,
            # Its own, so that starting to iterate does not move the global random state.
            generator=torch.Generator().manual_seed(seed),
        )
        self._canonical_nodes = data.num_canonical_nodes
        self._seed = seed
        self._grad_accum_steps = grad_accum_steps
        self._samples_per_micro_batch = world.num_ranks * micro_batch_size
        self._micro_batches_per_epoch = self._epoch_length()
        self._epoch = 0
        self._micro_batch = 0  # of the epoch; counts what was handed out
        self._batches: Iterator[tuple[Tensor, Tensor]] | None = None

    def next_step(self) -> list[MicroBatch]:
        """The next `grad_accum_steps` micro-batches of this rank, on the CPU.

        Raises:
            RuntimeError: The data cannot be read.
        """
        return [self._next_micro_batch() for _ in range(self._grad_accum_steps)]

    def state_dict(self) -> dict[str, Any]:
        """The position after what was handed out; JSON types, the same on every rank."""
        epochs, micro_batch = divmod(self._micro_batch, self._micro_batches_per_epoch)
        return {
            "epoch": self._epoch + epochs,
            "sample_in_epoch": micro_batch * self._samples_per_micro_batch,  # of all ranks
            "num_samples": self._dataset.epoch_size,
            "num_canonical_nodes": self._canonical_nodes,
            "shuffle_seed": self._seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, on any number of ranks.

        Raises:
            ValueError: The state belongs to other data or another order of them.
            RuntimeError: A step was taken already.
        """
        if self._batches is not None:
            # The workers have their order by then, and streaming would ignore the state.
            raise RuntimeError("load the state of a TrainingLoader before its first step")
        current = self.state_dict()
        for key in ("num_samples", "num_canonical_nodes", "shuffle_seed"):
            if state[key] != current[key]:
                raise ValueError(
                    f"the checkpoint's data position has {key} {state[key]} and the run has "
                    f"{current[key]}; continue with the same data, num_canonical_nodes and seed"
                )
        micro_batch, remainder = divmod(state["sample_in_epoch"], self._samples_per_micro_batch)
        if remainder:
            raise ValueError(
                f"the checkpoint stands at sample {state['sample_in_epoch']} of an epoch, which "
                f"is no multiple of ranks x micro_batch_size ({self._samples_per_micro_batch}); "
                "continue with the same global_batch_size"
            )
        self._epoch, self._micro_batch = state["epoch"], micro_batch
        # Streaming's own keys; it rejects nothing, so the checks above come first.
        self._dataset.load_state_dict(
            {key: state[key] for key in ("epoch", "sample_in_epoch", "num_canonical_nodes")}
            | {"shuffle_seed": self._seed}
        )

    def _next_micro_batch(self) -> MicroBatch:
        if self._batches is None:
            self._batches = iter(self._loader)
        if self._micro_batch >= self._micro_batches_per_epoch:
            for _ in self._batches:  # to the end, or the workers would not start anew
                pass
            self._epoch, self._micro_batch = self._epoch + 1, 0
            self._batches = iter(self._loader)
        try:
            batch = next(self._batches)
        except Exception as error:
            # StopIteration too: where a thread of streaming fails, its iteration just ends.
            raise RuntimeError(
                f"cannot read the data after {self._micro_batch} of "
                f"{self._micro_batches_per_epoch} micro-batches of epoch {self._epoch}; is a shard "
                "missing or damaged, or remote out of reach? See above"
            ) from error
        self._micro_batch += 1
        return MicroBatch(*batch)

    def _epoch_length(self) -> int:
        """Micro-batches of an epoch."""
        num_samples, rows = self._dataset.epoch_size, self._canonical_nodes
        if num_samples < rows:
            raise ValueError(
                f"the data hold {num_samples} samples, fewer than num_canonical_nodes ({rows}); "
                f"give more data or set data.num_canonical_nodes to {num_samples} at most"
            )
        # Streaming lays the samples out in rows, one per canonical node, and makes short
        # rows longer with a sample that it has already: stop before that column.
        distinct = num_samples - num_samples % rows
        per_micro_batch = self._samples_per_micro_batch
        num_steps = distinct // (per_micro_batch * self._grad_accum_steps)
        micro_batches = num_steps * self._grad_accum_steps or distinct // per_micro_batch
        if micro_batches == 0:
            raise ValueError(
                f"the data hold {num_samples} samples, too few for one micro-batch on each rank "
                f"({per_micro_batch} in all); give more data, a smaller micro_batch_size or "
                "fewer ranks"
            )
        return int(micro_batches)


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
        max_samples: int | None = None,
    ) -> None:
        """Open the folder."""
        if not (Path(folder) / INDEX_NAME).is_file():
            raise ValueError(f"no {INDEX_NAME} in {folder}; correct the path of the held-out data")
        self._dataset = LocalDataset(str(folder))
        _check_rows(self._dataset.shards, seq_len)
        size = self._dataset.size
        self.num_samples = size if max_samples is None else min(size, max_samples)
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size

    def __len__(self) -> int:
        """Number of batches, the same on every rank."""
        return ceil(int(self.num_samples) / (self._batch_size * self._world_size))

    def __iter__(self) -> Iterator[MicroBatch]:
        """Read this rank's batches."""
        for number in range(len(self)):
            first = (number * self._world_size + self._rank) * self._batch_size
            indices = range(first, first + self._batch_size)
            # Sample 0 fills the rows that no sample is left for.
            rows = [self._dataset[i if i < self.num_samples else 0] for i in indices]
            input_ids, labels = _collate(rows)
            labels[max(self.num_samples - first, 0) :] = IGNORED_LABEL
            yield MicroBatch(input_ids, labels)


def _collate(rows: Sequence[dict[str, NDArray[Any]]]) -> tuple[Tensor, Tensor]:
    """Input ids and labels, each `[B, S]` int64, of samples of S + 1 tokens."""
    tokens = torch.from_numpy(np.stack([row[COLUMN] for row in rows]).astype(np.int64))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def _stream(local: str, remote: str | None, proportion: float | None) -> Stream:
    # The hash guards downloads; shards that are here already are not read for it.
    return Stream(local=local, remote=remote, proportion=proportion, validate_hash="xxh64")


def _check_streams(data: DataConfig) -> None:
    for stream in data.streams:
        if stream.remote is None and not (Path(stream.local) / INDEX_NAME).is_file():
            raise ValueError(
                f"no {INDEX_NAME} in {stream.local}; correct the path of the stream, or set "
                "remote to fetch it"
            )


def _check_canonical_nodes(num_canonical_nodes: int, num_nodes: int) -> None:
    if num_canonical_nodes % num_nodes and num_nodes % num_canonical_nodes:
        raise ValueError(
            f"num_canonical_nodes ({num_canonical_nodes}) must divide or be divisible by the "
            f"number of nodes ({num_nodes}); choose a multiple of it"
        )


def _check_rows(shards: Sequence[Any], seq_len: int) -> None:
    for shard in shards:
        columns = dict(zip(shard.column_names, shard.column_encodings, strict=True))
        encoding = columns.get(COLUMN, "")
        if encoding not in {f"ndarray:{dtype}:{seq_len + 1}" for dtype in ("uint16", "uint32")}:
            raise ValueError(
                f"the shards of {shard.dirname} have columns {columns}, not {COLUMN} with "
                f"{seq_len + 1} ids as seq_len {seq_len} needs; prepare the data with this seq_len"
            )

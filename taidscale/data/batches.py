"""What one rank computes in one forward: samples side by side.

Shapes: B samples of S + 1 tokens, S `seq_len`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taidscale.data.sample_columns import DOCUMENTS, TOKENS, WEIGHTS
from taidscale.labels import IGNORED

Sample = dict[str, NDArray[Any]]
"""Columns of `sample.py`."""


@dataclass(frozen=True)
class MicroBatch:
    """What one rank computes in one forward.

    Args:
        input_ids: `[B, S]` int64.
        labels: `[B, S]` int64, the next token of each; -100 where it does not count: at padding,
            where the weight is 0, and, within documents, where another document begins.
        weights: `[B, S]` float32, factors of the losses; None where all are 1.
        positions: `[B, S]` int64, each token's place in its document; None where attention goes
            across documents.
        keys: `[B, 3]` int64: stream, shard of the stream and place in the shard of each sample,
            the same in every pass and on any machines, -1 for rows that hold no sample; they
            stay on the CPU.
    """

    input_ids: Tensor
    labels: Tensor
    weights: Tensor | None = None
    positions: Tensor | None = None
    keys: Tensor | None = None

    def to(self, device: torch.device | str) -> "MicroBatch":
        """Copy to a device; from pinned memory without waiting for the copy."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "MicroBatch":
        """Copy to memory from which a GPU reads without the CPU; PyTorch's loader calls it."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Any) -> "MicroBatch":
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {n: t if t is None or n == "keys" else change(t) for n, t in tensors.items()}
        return MicroBatch(**moved)


@dataclass(frozen=True)
class HandedOver:
    """A micro-batch on its way from a worker to its rank, as arrays, which go through a pipe.

    Tensors would go through /dev/shm, which containers keep small (64 MB): a worker that finds it
    full prints that and lives on, and its rank waits for ever.
    """

    arrays: dict[str, NDArray[Any] | None]

    @classmethod
    def pack(cls, batch: MicroBatch) -> "HandedOver":
        """In the worker; nothing is copied yet."""
        tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
        return cls({n: None if t is None else t.numpy() for n, t in tensors.items()})

    def unpack(self) -> MicroBatch:
        """In the rank; nothing is copied."""
        tensors = {n: None if a is None else torch.from_numpy(a) for n, a in self.arrays.items()}
        return MicroBatch(**tensors)  # type: ignore[arg-type]  # a batch has ids and labels

    def pin_memory(self) -> MicroBatch:
        """As that of `MicroBatch`."""
        return self.unpack().pin_memory()


def collate(
    samples: Sequence[Sample],
    keys: Sequence[tuple[int, int, int]],
    *,
    vocab_size: int,
    within_document: bool,
    with_weights: bool,
    left_out: Mapping[int, str] | None = None,
) -> MicroBatch:
    """Put samples side by side.

    Args:
        samples: B samples.
        keys: See `MicroBatch`.
        vocab_size: Ids must lie below.
        within_document: Whether attention stays within documents.
        with_weights: Whether the micro-batch has weights, also where these samples have none.
        left_out: Tokens of the data's tokenizer from `vocab_size` on, by id, to be named.

    Raises:
        ValueError: An id is too large, or a weight is negative or not finite.
    """
    tokens = np.stack([sample[TOKENS] for sample in samples]).astype(np.int64)
    if tokens.max() >= vocab_size:
        row, place = np.argwhere(tokens >= vocab_size)[0]
        where = f"stream, shard, sample {tuple(keys[row])}: token {place}"
        raise ValueError(f"{where} {_beyond(int(tokens[row, place]), vocab_size, left_out or {})}")
    counts = np.ones(tokens.shape, np.float32)
    places = np.zeros(tokens.shape, np.int64)
    for row, sample in enumerate(samples):
        if WEIGHTS in sample:
            counts[row] = _checked(sample[WEIGHTS], keys[row])
        ends = np.cumsum(sample[DOCUMENTS])
        counts[row, ends[-1] :] = 0.0
        starts = np.concatenate([[0], ends[ends < tokens.shape[1]]])  # the padding's too
        if within_document:
            counts[row, starts] = 0.0  # the first token has nothing to be predicted from
            lengths = np.diff(np.append(starts, tokens.shape[1]))
            places[row] = np.arange(tokens.shape[1]) - np.repeat(starts, lengths)
    labels = np.where(counts > 0, tokens, IGNORED)
    return MicroBatch(
        torch.from_numpy(tokens[:, :-1].copy()),
        torch.from_numpy(labels[:, 1:].copy()),
        torch.from_numpy(counts[:, 1:].copy()) if with_weights else None,
        torch.from_numpy(places[:, :-1].copy()) if within_document else None,
        torch.tensor(keys, dtype=torch.int64),
    )


def _beyond(index: int, vocab_size: int, left_out: Mapping[int, str]) -> str:
    """What is wrong with a token, and what to do about it."""
    if index in left_out:
        return (
            f"is {left_out[index]!r} (id {index}), and teacher and student share the ids up to "
            f"{vocab_size - 1} (teacher.vocabulary: shared_prefix); leave documents that hold it "
            "out of the data, or choose a teacher that has it"
        )
    return (
        f"has id {index}, and the model's vocabulary ends at {vocab_size - 1}; prepare the data "
        "with its tokenizer"
    )


def _checked(weights: NDArray[Any], key: tuple[int, int, int]) -> NDArray[Any]:
    """Weights by whose sum a loss can be divided; other tools may have written these."""
    is_wrong = ~(np.isfinite(weights) & (weights >= 0))
    if is_wrong.any():
        place = int(np.argmax(is_wrong))
        raise ValueError(
            f"stream, shard, sample {tuple(key)}: token {place} has weight {weights[place]}, and "
            "weights are 0 or more; prepare the data again"
        )
    return weights

"""Which tokens stand together in a sample.

A row is documents back to back, each with the separator that ends it, if any. A sample holds
`seq_len` + 1 tokens of the row and predicts all of them but its first.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike, NDArray

Tokens = NDArray[np.unsignedinteger[Any]]
Weights = NDArray[np.float16]
Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """Documents back to back.

    Args:
        tokens: `[N]` uint16 or uint32.
        lengths: `[D]` int64 of the documents, separators included, at least 1; their sum is N.
        weights: `[N]` of the losses of predicting the tokens; None where all are 1.
    """

    tokens: Tokens
    lengths: Int64s
    weights: Weights | None = None

    @classmethod
    def join(cls, rows: Sequence["Row"]) -> "Row":
        """One row after the other, at least one; all have weights or none has."""
        weights = [row.weights for row in rows if row.weights is not None]
        return cls(
            np.concatenate([row.tokens for row in rows]),
            np.concatenate([row.lengths for row in rows]),
            np.concatenate(weights) if weights else None,
        )

    def from_token(self, first: int) -> "Row":
        """What is left without the first tokens, maybe in the middle of a document."""
        ends = np.cumsum(self.lengths)
        ends = ends[ends > first] - first
        weights = None if self.weights is None else self.weights[first:]
        return Row(self.tokens[first:], np.diff(ends, prepend=0), weights)


@dataclass(frozen=True)
class Samples:
    """Samples of S + 1 tokens.

    Args:
        tokens: `[K, S + 1]`.
        lengths: `[P]` int32 of the pieces of documents in them, sample by sample.
        num_pieces: `[K]` int64: pieces of each sample.
        weights: `[K, S + 1]`; None where all are 1.
    """

    tokens: Tokens
    lengths: NDArray[np.int32]
    num_pieces: Int64s
    weights: Weights | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[tuple[Tokens, NDArray[np.int32], Weights | None]]:
        """Tokens, lengths of the pieces, and weights of each sample."""
        ends = np.cumsum(self.num_pieces)
        for sample, (first, end) in enumerate(zip(ends - self.num_pieces, ends, strict=True)):
            weights = None if self.weights is None else self.weights[sample]
            yield self.tokens[sample], self.lengths[first:end], weights


def lay_out(
    ids: Sequence[NDArray[Any]],
    weights: Sequence[Weights | None] | None,
    is_ended: Sequence[bool] = (),
    *,
    separator_id: int,
    bos_id: int | None,
    dtype: DTypeLike,
) -> Row:
    """Put documents into a row, each between `bos_id`, if any, and `separator_id`.

    Args:
        ids: `[n]` of each document.
        weights: `[n]` of each document, or None for one whose tokens all count, separator
            included; of others bos and separator have weight 0. None if every token counts.
        is_ended: Whether each document ends without a separator; empty if none does.
        separator_id: Put after each other document.
        bos_id: Put before each document that does not begin with it.
        dtype: Of the row's tokens.
    """
    nothing = np.empty(0, dtype)
    bos = nothing if bos_id is None else np.array([bos_id], dtype)
    separator = np.array([separator_id], dtype)
    pieces: list[NDArray[Any]] = [nothing]
    for document, ended in zip(ids, is_ended or repeat(False), strict=False):
        begins = bos_id is not None and len(document) and document[0] == bos_id
        pieces += (nothing if begins else bos, document, nothing if ended else separator)
    tokens = np.concatenate(pieces, dtype=dtype, casting="same_kind")
    sizes = np.array([len(piece) for piece in pieces[1:]], np.int64).reshape(-1, 3)
    lengths = sizes.sum(1)
    if weights is None:
        return Row(tokens, lengths)
    row = np.zeros(len(tokens), np.float16)
    starts = np.cumsum(lengths) - lengths
    for start, (before, inside, after), own in zip(starts, sizes, weights, strict=True):
        if own is None:
            row[start : start + before + inside + after] = 1
        else:
            row[start + before : start + before + inside] = own
    return Row(tokens, lengths, row)


def concatenate(row: Row, seq_len: int) -> tuple[Samples, Row]:
    """Cut a row into samples that share one token with their neighbours.

    Sample k holds tokens k·S to (k + 1)·S, both included.

    Returns:
        The samples, and the rest of the row, which begins with the last sample's last token;
        all of the row where it fills no sample.
    """
    num_samples = max(len(row.tokens) - 1, 0) // seq_len
    starts = np.arange(num_samples) * seq_len
    ends = np.cumsum(row.lengths)
    first = np.searchsorted(ends, starts, side="right")  # the document of the first token
    last = np.searchsorted(ends, starts + seq_len + 1, side="left")
    num_pieces = last - first + 1
    # Every piece is what its document and its sample have in common.
    owner = np.repeat(np.arange(num_samples), num_pieces)
    document = np.arange(len(owner)) - np.repeat(
        np.cumsum(num_pieces) - num_pieces - first, num_pieces
    )
    begin = np.maximum((ends - row.lengths)[document], starts[owner])
    end = np.minimum(ends[document], starts[owner] + seq_len + 1)
    samples = Samples(
        _windows(row.tokens, seq_len),
        (end - begin).astype(np.int32),
        num_pieces,
        None if row.weights is None else _windows(row.weights, seq_len),
    )
    return samples, row.from_token(num_samples * seq_len)


def _windows(values: NDArray[Any], seq_len: int) -> NDArray[Any]:
    """A view `[K, S + 1]` of `[N]`."""
    if len(values) <= seq_len:
        return values[:0].reshape(0, seq_len + 1)
    return sliding_window_view(values, seq_len + 1)[::seq_len]


def best_fit(row: Row, seq_len: int, padding_id: int) -> Samples:
    """Keep documents whole where they fit, and pad.

    Longer documents are cut into pieces of S + 1 tokens that share one token with the next
    piece. From the longest piece to the shortest, each goes where the least space remains.
    Samples, and pieces in them, stay in the order of the row as far as that allows.

    Args:
        row: Documents.
        seq_len: S.
        padding_id: Fills what remains, with weight 0.
    """
    size = seq_len + 1
    starts, lengths = _pieces(row.lengths, seq_len)
    owner = _best_fit_decreasing(lengths, size)
    # A sample's number is that of its first piece, counted over samples.
    _, first, owner = np.unique(owner, return_index=True, return_inverse=True)
    owner = np.argsort(np.argsort(first))[owner]
    order = np.argsort(owner, kind="stable")
    owner, starts, lengths = owner[order], starts[order], lengths[order]
    num_pieces = np.bincount(owner, minlength=len(first))
    # Where a piece begins in the row of all samples: after those of its sample before it.
    before = np.cumsum(lengths) - lengths
    before -= before[np.searchsorted(owner, owner)]
    places = np.repeat(owner * size + before - (np.cumsum(lengths) - lengths), lengths)
    places += np.arange(len(places))
    sources = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(len(places))
    tokens = np.full(len(first) * size, padding_id, row.tokens.dtype)
    tokens[places] = row.tokens[sources]
    weights = None
    if row.weights is not None:
        weights = np.zeros(len(tokens), np.float16)
        weights[places] = row.weights[sources]
        weights = weights.reshape(-1, size)
    return Samples(tokens.reshape(-1, size), lengths.astype(np.int32), num_pieces, weights)


def _pieces(lengths: Int64s, seq_len: int) -> tuple[Int64s, Int64s]:
    """Starts in the row and lengths of pieces of `seq_len` + 1 tokens at most."""
    counts = np.maximum(-(-(lengths - 1) // seq_len), 1)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(np.cumsum(lengths) - lengths, counts) + number * seq_len
    remaining = np.repeat(lengths, counts) - number * seq_len
    return starts, np.minimum(remaining, seq_len + 1)


def _best_fit_decreasing(lengths: Int64s, size: int) -> Int64s:
    """The bin of each piece; O(n log n)."""
    owner = np.empty(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    num_full = int(np.count_nonzero(lengths == size))
    owner[order[:num_full]] = np.arange(num_full)
    num_bins = num_full
    bins: dict[int, list[int]] = {}  # by the space that is left in them
    spaces: list[int] = []  # the keys of `bins`, sorted
    chosen = []
    for length in lengths[order[num_full:]].tolist():
        place = bisect_left(spaces, length)
        if place == len(spaces):
            space, number = size, num_bins
            num_bins += 1
        else:
            space = spaces[place]
            number = bins[space].pop()
            if not bins[space]:
                del bins[space], spaces[place]
        chosen.append(number)
        space -= length
        if space:
            if space not in bins:
                bins[space] = []
                insort(spaces, space)
            bins[space].append(number)
    owner[order[num_full:]] = chosen
    return owner

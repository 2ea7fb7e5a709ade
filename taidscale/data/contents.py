"""What do the samples of prepared data hold?

Shapes: S `seq_len`; k pieces of documents in a sample, P in all that were read.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming import LocalDataset

from taidscale.data.manifest import PREPARE_AGAIN, Manifest
from taidscale.data.sample_columns import DOCUMENTS, TOKENS, WEIGHTS
from taidscale.data.tokenizer import Tokenizer

Sample = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Contents:
    """What was found in some samples."""

    num_read: int
    """Samples."""
    lengths: NDArray[np.int64]
    """[P] tokens of each piece of a document; a document that a sample's end cuts is several."""
    largest_id: int
    """Of all tokens, padding included."""
    problems: list[str]
    """What is wrong with samples, each kind once, with the first that has it."""


def evenly_spaced(num_samples: int, max_samples: int) -> list[int]:
    """Numbers of at most so many samples, from all over the data, in order."""
    if num_samples <= max_samples:
        return list(range(num_samples))
    return [(2 * k + 1) * num_samples // (2 * max_samples) for k in range(max_samples)]


def read_contents(
    folder: str | Path,
    manifest: Manifest,
    max_samples: int,
    progress: Callable[[int], object] | None = None,
) -> Contents:
    """Read samples from all over the data and look for what cannot be.

    Args:
        folder: On this machine.
        manifest: Of the folder.
        max_samples: To read.
        progress: Told how many samples were read, each time.

    Raises:
        ValueError: A sample cannot be read, or none makes sense.
    """
    samples = LocalDataset(str(folder))
    numbers = evenly_spaced(manifest.num_samples, max_samples)
    lengths, largest_id, found = [], 0, dict[str, str]()
    for number in numbers:
        sample = read_sample(samples, number)
        largest_id = max(largest_id, int(sample[TOKENS].max()))
        problems = dict(_problems(sample, manifest))
        if "lengths" not in problems:
            lengths.append(sample[DOCUMENTS].astype(np.int64))
        for kind, detail in problems.items():
            found.setdefault(kind, f"sample {number:,} {detail}")
        if progress is not None:
            progress(1)
    if not lengths:
        raise ValueError(f"{folder}: {found['lengths']}, as have all others; {PREPARE_AGAIN}")
    return Contents(len(numbers), np.concatenate(lengths), largest_id, list(found.values()))


def read_sample(samples: LocalDataset, number: int) -> Sample:
    """One sample.

    Raises:
        ValueError: Its shard is damaged.
    """
    try:
        found: Sample = samples[number]
    except Exception as error:  # streaming and numpy raise many types
        raise ValueError(
            f"sample {number:,} of {samples.local} cannot be read ({error!r}); find the damaged "
            f"shards with --verify, then copy them again or {PREPARE_AGAIN}"
        ) from error
    return found


def length_histogram(
    lengths: NDArray[np.int64], longest: int | None = None
) -> list[tuple[str, float, float]]:
    """Bins of powers of two: (such as "4–7", share of the pieces in %, of their tokens in %).

    Args:
        lengths: [P], at least 1.
        longest: Where the last bin ends; by default the greatest length.
    """
    longest = int(lengths.max()) if longest is None else longest
    powers = range(longest.bit_length())
    power = np.log2(lengths).astype(int)
    pieces = np.bincount(power, minlength=len(powers)) * (100 / len(lengths))
    tokens = np.bincount(power, lengths, len(powers)) * (100 / lengths.sum())
    ends = [(1 << k, min((2 << k) - 1, longest)) for k in powers]
    names = [f"{a:,}–{b:,}" if a < b else f"{a:,}" for a, b in ends]
    return list(zip(names, pieces.tolist(), tokens.tolist(), strict=True))


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of a piece that are alike."""

    text: str
    """Without characters that a terminal would obey, but new lines."""
    counts: bool
    """Whether their prediction has a weight other than 0."""


def decode_pieces(sample: Sample, tokenizer: Tokenizer) -> Iterator[tuple[int, list[Span]]]:
    """The pieces of documents in a sample: their tokens, and the text of these."""
    tokens = sample[TOKENS]
    weights = sample.get(WEIGHTS, np.ones(len(tokens)))
    start, size = 0, tokenizer.size
    for length in sample[DOCUMENTS].tolist():
        piece = range(start, min(start + length, len(tokens)))
        alike = groupby(piece, lambda i: (bool(weights[i]), bool(tokens[i] < size)))
        spans = [
            Span(_text(tokens[list(group)].tolist(), tokenizer, known), counts)
            for (counts, known), group in alike
        ]
        yield length, spans
        start += length


def mark_spans(spans: Sequence[Span], max_characters: int, marks: tuple[str, str]) -> str:
    """The text of a piece, with marks around what has weight 0.

    Args:
        spans: Of the piece.
        max_characters: Of a longer text only the first 3/4 and the last 1/4 of these are shown.
        marks: Before and after.
    """
    num_characters = sum(len(span.text) for span in spans)
    tail_start = max(num_characters - max_characters // 4, 0)
    head_end = max_characters - max_characters // 4
    if num_characters <= max_characters:
        head_end = tail_start = num_characters
    shown, start = [], 0
    for span in spans:
        end = start + len(span.text)
        text = span.text[: max(head_end - start, 0)]
        if start <= head_end < end and head_end < tail_start:
            text += f" <... {tail_start - head_end:,} characters ...> "
        text += span.text[max(tail_start - start, 0) :]
        if text:
            shown.append(text if span.counts else f"{marks[0]}{text}{marks[1]}")
        start = end
    return "".join(shown)


def _text(ids: Sequence[int], tokenizer: Tokenizer, known: bool) -> str:
    if not known:
        return "".join(f"<id {number}?>" for number in ids)
    text = tokenizer.decode(list(ids))
    return "".join(
        c if c == "\n" or unicodedata.category(c)[0] != "C" else ascii(c)[1:-1] for c in text
    )


def _problems(sample: Sample, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(Kind, what is wrong) of a sample."""
    tokens, lengths = sample[TOKENS], sample[DOCUMENTS]
    num_real = int(lengths.sum())
    if tokens.max() >= manifest.vocab_size:
        yield (
            "ids",
            f"holds id {tokens.max()}, beyond the tokenizer's {manifest.vocab_size:,}",
        )
    if len(lengths) == 0 or lengths.min() < 1 or num_real > len(tokens):
        yield (
            "lengths",
            f"has impossible lengths of documents ({lengths.tolist()[:8]} in {len(tokens)} tokens)",
        )
    elif (tokens[num_real:] != manifest.separator_id).any():
        yield "padding", f"has padding that is not the separator {manifest.separator_id}"
    weights = sample.get(WEIGHTS, np.ones(len(tokens)))
    if not (np.isfinite(weights) & (weights >= 0)).all():
        yield "signs", "has weights that are negative or not finite"
    elif num_real <= len(tokens) and WEIGHTS in sample and weights[num_real:].any():
        yield "weights", "has padding with a weight other than 0"

"""Which passages of a domain's text are scored."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from streaming import LocalDataset

from taidscale.assessment.subjects import Subject
from taidscale.data.contents import evenly_spaced, read_sample
from taidscale.data.corpus.documents import Reading, Sources
from taidscale.data.manifest import MANIFEST_NAME, read_manifest
from taidscale.data.sample import DOCUMENTS, TOKENS
from taidscale.data.tokenizer import Tokenizer, load_tokenizer

_CUT = "\ufffd"
"""What a decoder puts where a piece ends inside of a character."""


@dataclass(frozen=True)
class Domain:
    """Passages of one kind of text, the same for all models."""

    name: str
    passages: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the passages."""
        return hashlib.sha256(json.dumps(self.passages).encode()).hexdigest()


def read_domain(
    name: str,
    path: str,
    subjects: Sequence[Subject],
    *,
    max_passages: int,
    max_characters: int,
    text_column: str = "text",
    split_on: str | None = None,
) -> Domain:
    """Cut text into passages and take some from all over it.

    Args:
        name: Of the domain.
        path: A file or glob that `tools/prepare_data.py` would read, or a folder of shards, whose
            tokens become text again.
        subjects: The models; the tokenizer of one may be that of the shards.
        max_passages: To take.
        max_characters: Of a passage; a longer document is cut.
        text_column: Where JSONL and Parquet keep the text.
        split_on: Ends a document inside a `.txt` file.

    Raises:
        ValueError: There is no text, or it cannot be read.
    """
    if (Path(path) / MANIFEST_NAME).is_file():
        texts = _shard_texts(Path(path), subjects, max_passages)
    else:
        reading = Reading(text_column=text_column, split_on=split_on)
        texts = Sources([path], reading).texts()
    passages = (passage for text in texts for passage in _cut(text, max_characters))
    kept = _spread(passages, max_passages)
    if not kept:
        raise ValueError(f"--text {name}={path}: holds no text")
    return Domain(name, tuple(kept[k] for k in evenly_spaced(len(kept), max_passages)))


def _spread(passages: Iterator[str], wanted: int) -> list[str]:
    """Every 1st, 2nd, 4th, ... passage: at least `wanted` of them, or all, and under twice that."""
    kept, stride = list[str](), 1
    for number, passage in enumerate(passages):
        if number % stride == 0:
            kept.append(passage)
        if len(kept) == 2 * wanted:
            kept, stride = kept[::2], 2 * stride
    return kept


def _cut(text: str, max_characters: int) -> Iterator[str]:
    """Pieces of nearly equal length, so that none is a short rest."""
    num_pieces = -(-len(text) // max_characters)
    ends = [len(text) * k // num_pieces for k in range(num_pieces + 1)]
    for start, end in pairwise(ends):
        if piece := text[start:end].strip():
            yield piece


def _shard_texts(folder: Path, subjects: Sequence[Subject], max_samples: int) -> Iterator[str]:
    manifest = read_manifest(folder)
    tokenizer = _tokenizer_of(manifest.fingerprint, manifest.tokenizer, subjects)
    control, samples = set(tokenizer.control_ids), LocalDataset(str(folder))
    for number in evenly_spaced(manifest.num_samples, max_samples):
        sample, start = read_sample(samples, number), 0
        for length in sample[DOCUMENTS].tolist():
            ids = sample[TOKENS][start : start + length].tolist()
            yield tokenizer.decode([k for k in ids if k not in control]).strip(_CUT)
            start += length


def _tokenizer_of(fingerprint: str, name: str, subjects: Sequence[Subject]) -> Tokenizer:
    for subject in subjects:
        if subject.vocabulary == fingerprint:
            return subject.tokenizer
    return load_tokenizer(name)

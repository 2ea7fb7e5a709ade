"""Which passages of a domain's text are scored."""

import hashlib
import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

from streaming import LocalDataset

from taidscale.assessment.subjects import Subject
from taidscale.corpus.documents import Reading, Sources
from taidscale.data.contents import evenly_spaced, read_sample
from taidscale.data.counts import Counts, refuse
from taidscale.data.manifest import MANIFEST_NAME, read_manifest
from taidscale.data.sample_columns import DOCUMENTS, TOKENS
from taidscale.data.tokenizer import Tokenizer, load_tokenizer
from taidscale.data.unknown import check_unknown, find_unknown

_CUT = "\ufffd"
"""What a decoder puts where a piece ends inside of a character."""


@dataclass(frozen=True)
class Domain:
    """Passages of one kind of text, the same for all models."""

    name: str
    passages: tuple[str, ...]
    seq_len: int | None = None
    """Tokens that a sample of the shards predicts, where it comes from shards."""

    @property
    def digest(self) -> str:
        """Of the passages."""
        return hashlib.sha256(json.dumps(self.passages).encode()).hexdigest()


@dataclass(frozen=True)
class Cutting:
    """How text becomes passages."""

    max_passages: int
    """Of a domain."""
    max_characters: int
    """Of a passage; a longer document is cut."""
    text_column: str = "text"
    """Where JSONL and Parquet keep the text."""
    split_on: str | None = None
    """Ends a document inside a `.txt` file."""


def read_domain(entry: str, subjects: Sequence[Subject], cutting: Cutting) -> Domain:
    """Cut text into passages and take some from all over it.

    Args:
        entry: NAME=PATH, where the path is a file or glob that `taidscale prepare` would read,
            or a folder of shards, whose tokens become text again.
        subjects: The models; the tokenizer of one may be that of the shards.
        cutting: How.

    Raises:
        ValueError: There is no text, or it cannot be read.
    """
    name, equals, path = entry.partition("=")
    if not (name and equals and path):
        raise ValueError(f"--text {entry}: write NAME=PATH")
    seq_len = None
    if (Path(path) / MANIFEST_NAME).is_file():
        seq_len = read_manifest(path).seq_len
        texts = _shard_texts(Path(path), subjects, cutting.max_passages)
    else:
        reading = Reading(text_column=cutting.text_column, split_on=cutting.split_on)
        texts = Sources([path], reading).texts(refuse)
    passages = (passage for text in texts for passage in _cut(text, cutting.max_characters))
    kept = _spread(passages, cutting.max_passages)
    if not kept:
        raise ValueError(f"--text {entry}: holds no text")
    chosen = evenly_spaced(len(kept), cutting.max_passages)
    return Domain(name, tuple(kept[number] for number in chosen), seq_len)


def read_domains(options: Namespace, subjects: Sequence[Subject]) -> list[Domain]:
    """Those of a command line; see `arguments.add_text`.

    Raises:
        ValueError: See `read_domain`; or two have one name.
    """
    cutting = Cutting(
        options.max_passages,
        options.passage_characters,
        options.text_column,
        options.split_on,
    )
    domains = [read_domain(entry, subjects, cutting) for entry in options.text]
    names = [domain.name for domain in domains]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--text: two domains are called {twice[0]}; give each its own name")
    return domains


def text_notes(domains: Sequence[Domain], subjects: Sequence[Subject]) -> list[str]:
    """What must be said with figures of text: what they are not, and what tokenizers lost."""
    notes = [
        f"{domain.name} is text out of shards: passages encoded anew, each scored from its own "
        f"beginning in windows of {domain.seq_len:,} tokens at most, without tokens that stand for "
        "no text; a run's teacher_kl is over whole samples, and is another figure"
        for domain in domains
        if domain.seq_len is not None
    ]
    for subject, domain in product(subjects, domains):
        counts = Counts(characters=sum(map(len, domain.passages)))
        encoded = subject.tokenizer.encode_batch(list(domain.passages))
        for number, (text, ids) in enumerate(zip(domain.passages, encoded, strict=True), 1):
            unknown = find_unknown(subject.tokenizer, text, ids)
            counts.add_unknown(unknown.num_tokens, unknown.parts, f"passage {number}")
        if warning := check_unknown(counts, subject.tokenizer.name, 1.0, ""):
            notes.append(f"{domain.name}: {warning}, so that bits/byte is too low")
    return notes


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

"""What is in a folder of MDS shards."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming import MDSWriter

from taidscale.data.manifest import (
    MANIFEST_NAME,
    PREPARE_AGAIN,
    Manifest,
    check_manifest,
    read_json,
    read_manifest,
)
from taidscale.data.tokenizer import Tokenizer, fingerprint

COLUMN = "tokens"
INDEX_NAME = "index.json"
SHARD_BYTES = 1 << 26


def write_shards(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    seq_len: int,
    out: str | Path,
    *,
    separator_id: int | None = None,
    sources: Iterable[str] = (),
    batch_documents: int = 1000,
    size_limit: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Pack documents into samples of `seq_len + 1` tokens and write them as MDS shards.

    Neighbouring samples share one token, so that each token but the first is predicted
    once. The folder appears when it is complete; until then it is `OUT.partial`.

    Args:
        documents: Texts.
        tokenizer: Makes their tokens.
        seq_len: Tokens that a sample predicts.
        out: Folder to write; absent or empty.
        separator_id: Put after each document; by default the tokenizer's own.
        sources: Recorded in the manifest.
        batch_documents: Documents that are tokenized at once.
        size_limit: Bytes of a shard at most.
        progress: Told the number of documents and of tokens so far, after each batch.

    Raises:
        ValueError: `out` is no free local folder, there is no separator, or the documents
            do not fill a sample.
    """
    folder = _free_folder(out)
    separator = _separator(tokenizer, separator_id)
    if seq_len < 1:
        raise ValueError(f"seq_len ({seq_len}) must be positive")
    packing = _Packing(tokenizer, separator, seq_len)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        writer = MDSWriter(
            columns={COLUMN: f"ndarray:{packing.dtype.name}:{seq_len + 1}"},
            out=str(partial),
            hashes=["xxh64"],
            size_limit=size_limit,
        )
        remaining = iter(documents)
        while batch := list(islice(remaining, batch_documents)):
            for sample in packing.add(batch):
                writer.write({COLUMN: sample})
            if progress is not None:
                progress(packing.num_documents, packing.num_tokens)
        writer.finish()
        manifest = packing.manifest(list(sources))
        (partial / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def check_shards(
    folder: str | Path, *, seq_len: int, fingerprint: str | None, vocab_size: int
) -> Manifest:
    """Make sure that a folder of shards is complete and fits a run.

    Args:
        folder: What `write_shards` wrote.
        seq_len: Of the run.
        fingerprint: Of the run's tokenizer; None if it has none to compare with.
        vocab_size: Rows of the model's embedding.

    Raises:
        ValueError: Something is missing, truncated, or made for other settings.
    """
    manifest = read_manifest(folder)
    num_samples = sum(_check_shard(Path(folder), shard) for shard in _index(Path(folder)))
    if num_samples != manifest.num_samples:
        raise ValueError(
            f"{folder}: {INDEX_NAME} counts {num_samples} samples and {MANIFEST_NAME} "
            f"{manifest.num_samples}; {PREPARE_AGAIN}"
        )
    check_manifest(
        manifest, str(folder), seq_len=seq_len, fingerprint=fingerprint, vocab_size=vocab_size
    )
    return manifest


# --- packing --------------------------------------------------------------------------


class _Packing:
    """Cuts the endless row of doc, separator, doc, separator, ... into samples."""

    def __init__(self, tokenizer: Tokenizer, separator: int, seq_len: int) -> None:
        self._tokenizer, self._separator, self._seq_len = tokenizer, separator, seq_len
        self._vocab_size = tokenizer.size
        self.dtype = np.dtype(np.uint16 if self._vocab_size <= 1 << 16 else np.uint32)
        self._rest = np.empty(0, self.dtype)
        self.num_documents = self.num_tokens = self.num_samples = 0

    def add(self, texts: list[str]) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
        """Yield the samples, each `[seq_len + 1]`, that some more documents complete."""
        ids: list[int] = []
        for document in filter(None, self._tokenizer.encode_batch(texts)):
            ids += document
            ids.append(self._separator)
            self.num_documents += 1
        self.num_tokens += len(ids)
        tokens = np.concatenate([self._rest, np.array(ids, self.dtype)])
        # A sample also needs the token after its last, which the next sample begins with.
        num_samples = max(len(tokens) - 1, 0) // self._seq_len
        for start in range(0, num_samples * self._seq_len, self._seq_len):
            yield tokens[start : start + self._seq_len + 1]
        self._rest = tokens[num_samples * self._seq_len :]
        self.num_samples += num_samples

    def manifest(self, sources: list[str]) -> Manifest:
        if self.num_samples == 0:
            raise ValueError(
                f"the documents have {self.num_tokens} tokens, fewer than one sample of "
                f"{self._seq_len + 1}; give more text or a smaller seq_len"
            )
        return Manifest(
            seq_len=self._seq_len,
            num_samples=self.num_samples,
            num_tokens=self.num_tokens,
            num_documents=self.num_documents,
            num_dropped_tokens=len(self._rest) - 1,
            tokenizer=self._tokenizer.name,
            fingerprint=fingerprint(self._tokenizer.vocabulary()),
            vocab_size=self._vocab_size,
            separator_id=self._separator,
            sources=sources,
        )


def _free_folder(out: str | Path) -> Path:
    if "://" in str(out):
        raise ValueError(f"{out} is not a local folder; write to one and upload it afterwards")
    folder = Path(out).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{out} exists already; remove it or choose another folder")
    return folder


def _separator(tokenizer: Tokenizer, separator_id: int | None) -> int:
    separator = tokenizer.separator_id if separator_id is None else separator_id
    if separator is None:
        raise ValueError(
            f"tokenizer {tokenizer.name} has no end-of-sequence token to separate documents; "
            "choose a token with --separator-id"
        )
    if not 0 <= separator < tokenizer.size:
        raise ValueError(
            f"separator_id {separator} is not an id of tokenizer {tokenizer.name}; choose one "
            f"from 0 to {tokenizer.size - 1}"
        )
    return separator


# --- checks ---------------------------------------------------------------------------


def _index(folder: Path) -> list[dict[str, Any]]:
    shards = read_json(folder / INDEX_NAME).get("shards")
    if not isinstance(shards, list) or not shards:
        raise ValueError(f"{folder / INDEX_NAME} lists no shards; {PREPARE_AGAIN}")
    return shards


def _check_shard(folder: Path, shard: dict[str, Any]) -> int:
    try:
        path = folder / shard["raw_data"]["basename"]
        expected, num_samples = int(shard["raw_data"]["bytes"]), int(shard["samples"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / INDEX_NAME} is damaged; {PREPARE_AGAIN}") from error
    if not path.is_file():
        raise ValueError(f"shard {path} is missing; copy it again or {PREPARE_AGAIN}")
    size = path.stat().st_size
    if size != expected:
        raise ValueError(
            f"shard {path} has {size} bytes instead of {expected}; copy it again or {PREPARE_AGAIN}"
        )
    return num_samples

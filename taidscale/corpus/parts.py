"""How a row of documents becomes one part of a folder of shards, and what joins the parts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from streaming import MDSWriter

from taidscale.corpus.packing import Row, Samples, Weights, best_fit, concatenate, lay_out
from taidscale.data.counts import Counts
from taidscale.data.manifest import INDEX_NAME, MANIFEST_NAME, Manifest, Packing, Separate, Shard
from taidscale.data.overlap import hash_samples, write_hashes
from taidscale.data.sample_columns import DOCUMENTS, TOKENS, WEIGHTS, columns
from taidscale.durable import flush_to_disk
from taidscale.home import at_home

SHARD_BYTES = 1 << 26


@dataclass(frozen=True)
class Layout:
    """What samples look like, and how documents get into them.

    Args:
        seq_len: S, tokens that a sample predicts.
        packing: How documents share samples; see `packing.py`.
        separator_id: The token after documents, and the padding.
        bos_id: The token before each document that does not begin with it, if any.
        vocab_size: Largest id + 1.
        has_weights: Whether the losses have weights.
        separate: Which documents get a separator; see `Manifest`.

    Raises:
        ValueError: A value is impossible.
    """

    seq_len: int
    packing: Packing
    separator_id: int
    bos_id: int | None
    vocab_size: int
    has_weights: bool
    separate: Separate = "all"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.seq_len < 1:
            raise ValueError(f"--seq-len ({self.seq_len}) must be positive")
        for name, token in (("--separator-id", self.separator_id), ("bos", self.bos_id)):
            if token is not None and not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"{name} {token} is not an id of the tokenizer; choose one from 0 to "
                    f"{self.vocab_size - 1}"
                )

    @property
    def columns(self) -> dict[str, str]:
        """Streaming's encodings of the columns."""
        return columns(self.seq_len, self.vocab_size, has_weights=self.has_weights)

    def row(
        self,
        ids: Sequence[NDArray[Any]],
        weights: Sequence[Weights | None],
        is_ended: Sequence[bool] = (),
    ) -> Row:
        """Documents, as `packing.lay_out` wants them, back to back."""
        return lay_out(
            ids,
            weights if self.has_weights else None,
            is_ended if self.separate == "unended" else (),
            separator_id=self.separator_id,
            bos_id=self.bos_id,
            dtype=self.columns[TOKENS].split(":")[1],
        )

    def pack(self, row: Row) -> tuple[Samples, Row]:
        """The samples of a row, and the tokens at its end that are in none."""
        if self.packing == "best_fit":
            samples = best_fit(row, self.seq_len, self.separator_id)
            return samples, row.from_token(len(row.tokens))
        samples, rest = concatenate(row, self.seq_len)
        return samples, rest.from_token(1) if len(samples) else rest


def free_folder(out: str | Path) -> Path:
    """The absolute path of a folder to write.

    Raises:
        ValueError: There is something already.
    """
    folder = at_home(out).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{out} exists already; remove it or choose another folder")
    return folder


class Part(BaseModel):
    """What was made of one block of the input, or of the rests of all."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    counts: Counts
    """What was read."""
    num_tokens: int
    """Of its documents, separators and beginnings included."""
    num_weighted_tokens: int
    """Those whose weight is not 0."""
    num_split_documents: int
    """Documents longer than a sample; 0 with `concatenate`."""
    num_padding_tokens: int
    """Places of its samples that hold no document."""
    shards: list[dict[str, Any]]
    """Entries of streaming's index."""
    hashes: str
    """Of its samples, in hexadecimal; see `overlap.py`."""

    @classmethod
    def of(
        cls,
        row: Row,
        samples: Samples,
        layout: Layout,
        counts: Counts,
        shards: list[dict[str, Any]],
    ) -> "Part":
        """Count what is in a row and in the samples that it fills."""
        is_split = (row.lengths > layout.seq_len + 1) & (layout.packing == "best_fit")
        is_weighted = True if row.weights is None else row.weights != 0
        return cls(
            counts=counts,
            num_tokens=len(row.tokens),
            num_weighted_tokens=int(np.broadcast_to(is_weighted, row.tokens.shape).sum()),
            num_split_documents=int(is_split.sum()),
            num_padding_tokens=samples.tokens.size - int(samples.lengths.sum()),
            shards=shards,
            hashes=hash_samples(samples.tokens).tobytes().hex(),
        )


def write_samples(
    folder: Path, samples: Samples, layout: Layout, size_limit: int = SHARD_BYTES
) -> list[dict[str, Any]]:
    """Write shards, safe from a loss of power, into a folder that is new.

    Returns:
        Entries of streaming's index, with paths below the parent of `folder`.

    Raises:
        OSError: The disk is full or fails.
    """
    writer = MDSWriter(
        columns=layout.columns, out=str(folder), hashes=["xxh64"], size_limit=size_limit
    )
    for tokens, documents, weights in samples:
        writer.write({TOKENS: tokens, DOCUMENTS: documents, WEIGHTS: weights})
    # Not `finish`, which may sleep for a second, to write an index that nothing needs.
    if writer.new_samples:
        writer.flush_shard()
    writer.executor.shutdown()
    for shard in writer.shards:
        data = shard["raw_data"]
        flush_to_disk(folder / data["basename"])
        data["basename"] = f"{folder.name}/{data['basename']}"
    flush_to_disk(folder)
    return list(writer.shards)


def write_manifest(
    folder: Path,
    parts: Sequence[Part],
    *,
    layout: Layout,
    tokenizer: str,
    fingerprint: str,
    num_dropped_tokens: int,
    sources: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
    remarks: Sequence[str] = (),
) -> Manifest:
    """Write hashes of samples, `index.json` and, last, `manifest.json` of some parts.

    Raises:
        ValueError: The documents do not fill a sample.
    """
    shards = [shard for part in parts for shard in part.shards]
    counts = sum((part.counts for part in parts), start=Counts())
    num_tokens = sum(part.num_tokens for part in parts)
    if not shards:
        raise ValueError(
            f"the documents have {num_tokens} tokens, fewer than one sample of "
            f"{layout.seq_len + 1}; give more text or a smaller --seq-len"
        )
    index = json.dumps({"version": 2, "shards": shards}, sort_keys=True).encode()
    manifest = Manifest(
        **asdict(layout),
        num_samples=sum(shard["samples"] for shard in shards),
        num_tokens=num_tokens,
        num_documents=counts.documents,
        num_dropped_tokens=num_dropped_tokens,
        num_padding_tokens=sum(part.num_padding_tokens for part in parts),
        num_split_documents=sum(part.num_split_documents for part in parts),
        num_weighted_tokens=sum(part.num_weighted_tokens for part in parts),
        tokenizer=tokenizer,
        fingerprint=fingerprint,
        sources=list(sources),
        settings=settings or {},
        remarks=list(remarks),
        counts=counts,
        index_hash=xxhash.xxh64_hexdigest(index),
        shards=[
            Shard(
                file=shard["raw_data"]["basename"],
                bytes=shard["raw_data"]["bytes"],
                samples=shard["samples"],
                xxh64=shard["raw_data"]["hashes"]["xxh64"],
            )
            for shard in shards
        ],
        has_sample_hashes=True,
    )
    flush_to_disk(
        write_hashes(folder, [np.frombuffer(bytes.fromhex(p.hashes), np.uint64) for p in parts])
    )
    text = manifest.model_dump_json(indent=2).encode() + b"\n"
    for name, content in ((INDEX_NAME, index), (MANIFEST_NAME, text)):
        (folder / name).write_bytes(content)
        flush_to_disk(folder / name)
    flush_to_disk(folder)
    return manifest

"""What is in a folder of MDS shards, and is it whole?

OUT/00000/shard.00000.mds   samples of the first part of the input; see `sample.py`
OUT/00000/shard.00001.mds
OUT/00001/shard.00000.mds   ...
OUT/index.json              streaming's index of all shards
OUT/manifest.json           what they hold and how they were made
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xxhash

from taidscale.data.counts import Counts
from taidscale.data.manifest import (
    INDEX_NAME as INDEX_NAME,
)
from taidscale.data.manifest import (
    MANIFEST_NAME,
    PREPARE_AGAIN,
    Manifest,
    check_manifest,
    read_manifest,
)
from taidscale.data.packing import Packing
from taidscale.data.parts import SHARD_BYTES, Layout, Part, write_manifest, write_samples
from taidscale.data.tokenizer import Tokenizer
from taidscale.data.tokenizer import fingerprint as fingerprint_of


def write_shards(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    seq_len: int,
    out: str | Path,
    *,
    separator_id: int | None = None,
    packing: Packing = "concatenate",
    size_limit: int = SHARD_BYTES,
) -> Manifest:
    """Write what fits into memory; `prepare.prepare` is for more.

    Args:
        documents: Texts.
        tokenizer: Makes their tokens.
        seq_len: Tokens that a sample predicts.
        out: Folder to write, which appears when it is complete; absent or empty.
        separator_id: Put after each document; by default the tokenizer's own.
        packing: How documents share samples.
        size_limit: Bytes of a shard at most.

    Raises:
        ValueError: `out` is taken, there is no separator, or the documents do not fill a sample.
    """
    folder = free_folder(out)
    separator = choose_separator(tokenizer, separator_id)
    layout = Layout(seq_len, packing, separator, None, tokenizer.size, has_weights=False)
    texts = list(documents)
    ids = [np.array(x, np.uint32) for x in tokenizer.encode_batch(texts) if len(x)]
    row = layout.row(ids, [])
    samples, rest = layout.pack(row)
    counts = Counts(documents=len(ids), characters=sum(map(len, texts)), tokens=sum(map(len, ids)))
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shards = write_samples(partial / "00000", samples, layout, size_limit)
        part = Part.of(row, samples, layout, counts, shards)
        manifest = write_manifest(
            partial,
            [part],
            layout=layout,
            tokenizer=tokenizer.name,
            fingerprint=fingerprint_of(tokenizer.vocabulary()),
            num_dropped_tokens=len(rest.tokens),
        )
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def free_folder(out: str | Path) -> Path:
    """The absolute path of a folder to write.

    Raises:
        ValueError: There is something already.
    """
    folder = Path(out).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{out} exists already; remove it or choose another folder")
    return folder


def choose_separator(tokenizer: Tokenizer, separator_id: int | None) -> int:
    """The given separator, or the tokenizer's own.

    Raises:
        ValueError: There is none.
    """
    separator = tokenizer.separator_id if separator_id is None else separator_id
    if separator is None:
        raise ValueError(
            f"tokenizer {tokenizer.name} has no end-of-sequence token to separate documents; "
            "choose a token with --separator-id"
        )
    return separator


def check_shards(
    folder: str | Path, *, seq_len: int, fingerprint: str | None, vocab_size: int
) -> Manifest:
    """Make sure that a folder of shards is complete and fits a run.

    Their contents are not read; `manifest.check_hashes` does that.

    Args:
        folder: What `prepare` or `write_shards` wrote.
        seq_len: Of the run.
        fingerprint: Of the run's tokenizer; None if it has none to compare with.
        vocab_size: Rows of the model's embedding.

    Raises:
        ValueError: Something is missing, truncated, or made for other settings.
    """
    manifest = read_manifest(folder)
    index = Path(folder) / INDEX_NAME
    if not index.is_file():
        raise ValueError(f"no {INDEX_NAME} in {folder}; copy it again or {PREPARE_AGAIN}")
    if xxhash.xxh64_hexdigest(index.read_bytes()) != manifest.index_hash:
        raise ValueError(
            f"{index} is not the one that {MANIFEST_NAME} was written with; copy both again or "
            f"{PREPARE_AGAIN}"
        )
    for shard in manifest.shards:
        path = Path(folder) / shard.file
        if not path.is_file():
            raise ValueError(f"shard {path} is missing; copy it again or {PREPARE_AGAIN}")
        size = path.stat().st_size
        if size != shard.bytes:
            raise ValueError(
                f"shard {path} has {size} bytes instead of {shard.bytes}; copy it again or "
                f"{PREPARE_AGAIN}"
            )
    check_manifest(
        manifest, str(folder), seq_len=seq_len, fingerprint=fingerprint, vocab_size=vocab_size
    )
    return manifest

"""What is in a folder of MDS shards, and is it whole?

OUT/00000/shard.00000.mds   samples of the first part of the input; see `sample.py`
OUT/00000/shard.00001.mds
OUT/00001/shard.00000.mds   ...
OUT/index.json              streaming's index of all shards
OUT/manifest.json           what they hold and how they were made
"""

from pathlib import Path

import xxhash

from taidscale.data.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    PREPARE_AGAIN,
    Manifest,
    check_manifest,
    read_manifest,
)


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

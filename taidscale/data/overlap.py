"""Are held-out samples among those that a run is trained on?

Preparation leaves the hashes of all samples beside the shards, sorted, 8 bytes each: a thousandth
of the shards. Those of a held-out set are looked up there, whatever the size of the training data.
Texts that were cut into other samples are not found to be the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from streaming.base.storage import CloudDownloader

from taidscale.data.manifest import Manifest
from taidscale.home import at_home

HASHES_NAME = "samples.xxh64"
MAX_FETCHED_BYTES = 1 << 26
"""Of hashes in a bucket, which are fetched when a run starts."""
_HASH = np.dtype("<u8")

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Prepared:
    """Shards, and where they are."""

    place: str
    """Folder, or bucket."""
    is_remote: bool
    manifest: Manifest


@dataclass(frozen=True)
class Overlap:
    """What of a held-out set is in some training data."""

    num_samples: int
    """Held-out samples that are among the others."""
    is_exact: bool
    """False where only whole shards could be compared."""


def hash_samples(tokens: NDArray[Any]) -> Hashes:
    """The xxh64 of each of `[K, S + 1]` samples, `[K]`."""
    return np.array(
        [xxhash.xxh64_intdigest(np.ascontiguousarray(row).data) for row in tokens], _HASH
    )


def write_hashes(folder: Path, hashes: Sequence[Hashes]) -> Path:
    """Write all of a folder's, sorted; the file."""
    path = folder / HASHES_NAME
    path.write_bytes(np.sort(np.concatenate(hashes)).astype(_HASH).tobytes())
    return path


def find_overlap(held_out: Prepared, training: Prepared) -> Overlap:
    """How many samples of a held-out set are in a stream.

    Raises:
        ValueError: The hashes of samples are damaged.
    """
    known = {shard.xxh64 for shard in training.manifest.shards}
    in_shards = sum(s.samples for s in held_out.manifest.shards if s.xxh64 in known)
    with TemporaryDirectory() as scratch:
        wanted, theirs = (_read_hashes(data, Path(scratch)) for data in (held_out, training))
        if wanted is None or theirs is None:
            return Overlap(in_shards, is_exact=False)
        places = np.minimum(np.searchsorted(theirs, wanted), len(theirs) - 1)
        return Overlap(int(np.count_nonzero(theirs[places] == wanted)), is_exact=True)


def _read_hashes(data: Prepared, scratch: Path) -> Hashes | None:
    """Those of all samples, in order; None where there are none, or too many to fetch."""
    num_bytes = data.manifest.num_samples * _HASH.itemsize
    if not data.manifest.has_sample_hashes or (data.is_remote and num_bytes > MAX_FETCHED_BYTES):
        return None
    path = at_home(data.place) / HASHES_NAME
    try:
        if data.is_remote:
            path = scratch / HASHES_NAME
            CloudDownloader.direct_download(f"{data.place.rstrip('/')}/{HASHES_NAME}", str(path))
        size = path.stat().st_size
    except Exception:  # each cloud's client raises its own types
        return None
    if size != num_bytes:
        raise ValueError(f"{path} has {size} bytes instead of {num_bytes}; copy it again")
    return np.memmap(path, _HASH, mode="r")

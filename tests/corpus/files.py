"""Files as users have them, and the texts in them."""

import gzip
from pathlib import Path
from typing import Any

import zstandard

from taidscale.corpus.documents import Reading, Sources
from taidscale.data.counts import Counts


def texts_of(*paths: Path | str, **reading: Any) -> list[str]:
    """The texts of some sources."""
    return list(Sources([str(path) for path in paths], Reading(**reading)).texts())


def skipping(path: Path, **reading: Any) -> tuple[list[str], Counts]:
    """The texts of a file of which some cannot be read."""
    counts = Counts()
    return list(Sources([str(path)], Reading(**reading)).texts(counts.skip)), counts


def write(path: Path, content: bytes) -> Path:
    """Write a file, compressed as its name says, and then in two frames."""
    half = len(content) // 2
    match path.suffix:
        case ".gz":
            content = gzip.compress(content[:half]) + gzip.compress(content[half:])
        case ".zst":
            compress = zstandard.ZstdCompressor().compress
            content = compress(content[:half]) + compress(content[half:])
    path.write_bytes(content)
    return path

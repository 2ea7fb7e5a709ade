"""Files that are there whole, or not at all, also after a power cut."""

import os
from pathlib import Path


def flush_to_disk(path: Path) -> None:
    """Wait until a file's, or folder's, content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file aside, flush it, and let it take its name.

    Raises:
        OSError: if it cannot be written; what was there stays.
    """
    aside = path.with_name(path.name + ".partial")
    aside.write_bytes(content.encode() if isinstance(content, str) else content)
    flush_to_disk(aside)
    os.replace(aside, path)
    flush_to_disk(path.parent)

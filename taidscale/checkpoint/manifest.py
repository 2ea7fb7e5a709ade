"""What a checkpoint's folder holds, and whether it still is what was written."""

import hashlib
import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from taidscale import __version__
from taidscale.durable import flush_to_disk

MANIFEST = "manifest.json"
FORMAT = 2
"""Of the manifest; 1 had no hashes."""
_READ_BYTES = 2**24


class FormatError(ValueError):
    """A checkpoint of another version, which is no damage: nothing passes over it silently."""


def write_manifest(folder: Path, facts: dict[str, Any], files: dict[str, dict[str, Any]]) -> None:
    """Write it, with a hash of its own.

    Args:
        folder: of the checkpoint.
        facts: what `read_facts` shall return; JSON.
        files: by their name in the folder, `bytes`, `sha256` and the `rank` that wrote them.
    """
    manifest = {"format": FORMAT, **facts, "files": files}
    manifest["sha256"] = _hash_of(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    flush_to_disk(folder / MANIFEST)


def read_facts(folder: Path) -> dict[str, Any]:
    """What was saved beside the files of a checkpoint, and `files` themselves.

    Raises:
        FormatError: if it was written in another format.
        ValueError: if the manifest is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        own_format, expected = manifest.get("format", 1), manifest.pop("sha256", None)
    except (OSError, ValueError, AttributeError):
        raise ValueError(f"{MANIFEST} is missing or unreadable") from None
    found = _hash_of(manifest)
    if own_format != FORMAT and expected in (None, found):
        raise FormatError(
            f"{folder} has format {own_format!r}, and TAIDScale {__version__} reads format "
            f"{FORMAT}: use the version that wrote it, or move it away"
        )
    if expected != found:
        raise ValueError(f"{MANIFEST} has SHA-256 {found} instead of {expected}")
    for name in map(PurePosixPath, manifest["files"]):  # the hash is anybody's
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"{MANIFEST} names {str(name)!r}, which is not in the checkpoint")
    return manifest


def check_format(folder: Path) -> None:
    """Refuse a checkpoint of another format; what else may be wrong with it is not said.

    Raises:
        FormatError: with the number.
    """
    try:
        read_facts(folder)
    except FormatError:
        raise
    except ValueError:
        return


def read_hash(path: Path, *, from_disk: bool = False) -> tuple[int, str]:
    """Size in bytes, and SHA-256 in hexadecimal digits.

    Args:
        path: of a file.
        from_disk: forget what the system keeps of it in memory; it must have been flushed.
    """
    total, digest, buffer = 0, hashlib.sha256(), memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as file:
        if from_disk:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
            total += size
    return total, digest.hexdigest()


def damage(folder: Path, *, hashes: bool = False) -> str | None:
    """What is wrong with a checkpoint, if anything: the first file that is not as written.

    Args:
        folder: of the checkpoint.
        hashes: read every file; else only sizes are compared.

    Raises:
        FormatError: as `read_facts`.
    """
    try:
        files = read_facts(folder)["files"]
    except FormatError:
        raise
    except ValueError as error:
        return str(error)
    problems = (file_damage(folder, name, entry, hashes=hashes) for name, entry in files.items())
    return next((problem for problem in problems if problem is not None), None)


def file_damage(folder: Path, name: str, entry: dict[str, Any], *, hashes: bool) -> str | None:
    """What is wrong with one file of a checkpoint, if anything.

    Args:
        folder: of the checkpoint.
        name: of the file, in the folder.
        entry: what the manifest says of it.
        hashes: read it; else only its size is compared.
    """
    path = folder / name
    try:
        num_bytes, sha256 = read_hash(path) if hashes else (path.stat().st_size, entry["sha256"])
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error}"
    if num_bytes != entry["bytes"]:
        return f"{name} has {num_bytes:,} bytes instead of {entry['bytes']:,}"
    if sha256 != entry["sha256"]:
        return f"{name} has SHA-256 {sha256[:16]}... instead of {entry['sha256'][:16]}..."
    return None


def _hash_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()

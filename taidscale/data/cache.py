"""What processes that share a folder of fetched files keep to: locks, checks, and a limit.

All is in files and in locks of the kernel, which end with the process that holds them: nothing
is left behind that stops the next run.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

import xxhash

FETCHING = ".fetching"  # folder, in the cache, of locks and of files that are on their way


class CacheLimit:
    """Keeps the folders of some streams below a number of bytes.

    What they hold is written down in a ledger, never less than is true; only when that comes to
    the limit are the files counted. Bytes of a shard that is being fetched are written into its
    lock file.
    """

    def __init__(self, folders: Sequence[Path], limit: int) -> None:
        self._folders, self._limit = folders, limit
        self._ledger = folders[0] / FETCHING / "usage.lock"
        self._has_counted = False  # files that another run left behind

    @contextmanager
    def room(self, num_bytes: int, lock: IO[str]) -> Iterator[None]:
        """Reserve bytes while a shard is fetched; waits where others' fetches fill the cache."""
        while not self._reserve(num_bytes, lock):
            time.sleep(0.02)
        try:
            yield
        finally:
            lock.truncate(0)

    def _reserve(self, num_bytes: int, lock: IO[str]) -> bool:
        with locked(self._ledger) as ledger:
            assert ledger is not None
            ledger.seek(0)
            text = ledger.read()  # empty where its writer was killed
            usage = int(text or 0)
            if not (self._has_counted and text) or usage + num_bytes > self._limit:
                usage = self._make_room(num_bytes)
                self._has_counted = True
            fits = usage + num_bytes <= self._limit
            if fits:
                usage += num_bytes
                lock.truncate(0)  # of what a killed process wrote
                lock.write(str(num_bytes))
                lock.flush()
            ledger.truncate(0)
            ledger.write(str(usage))
        return fits

    def _make_room(self, num_bytes: int) -> int:
        """Delete the coldest shards, a few more than needed; returns the bytes that remain."""
        usage, shards = 0, list[tuple[int, int, str]]()
        for folder in self._folders:
            usage += _pending_bytes(folder / FETCHING)
            for parent, _, names in os.walk(folder):
                if parent == str(folder / FETCHING):
                    continue
                for name in names:
                    path = os.path.join(parent, name)  # noqa: PTH118, of 100,000 files
                    with suppress(FileNotFoundError):
                        stat = os.stat(path)  # noqa: PTH116
                        usage += stat.st_size
                        if name.endswith(".mds"):
                            shards.append((stat.st_mtime_ns, stat.st_size, path))
        if usage + num_bytes > self._limit:
            for _, size, path in sorted(shards):
                if usage + num_bytes <= self._limit - self._limit // 16:
                    break
                Path(path).unlink(missing_ok=True)
                usage -= size
        return usage


def _pending_bytes(folder: Path) -> int:
    """Bytes reserved for what is being fetched; removes what a killed process left."""
    pending = 0
    for lock in folder.glob("[0-9]*.lock"):
        with locked(lock, blocking=False) as file:
            if file is None:
                pending += int(lock.read_text() or 0)
            else:
                file.truncate(0)
                remove_all(lock.with_suffix(".part"))
    return pending


@contextmanager
def locked(path: Path, blocking: bool = True) -> Iterator[IO[str] | None]:
    """Hold a lock file, open for reading and appending; None where another holds it."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
        except BlockingIOError:
            held = None
        else:
            held = file
        try:
            yield held
        finally:
            if held is not None:
                held.flush()
                # Closing does not do it where a forked process has the file open, too.
                fcntl.flock(held, fcntl.LOCK_UN)


def damage(path: Path, num_bytes: int | None, hash_: str | None) -> str | None:
    """What is wrong with a file; None if it has these bytes and this xxh64, as far as given."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if num_bytes not in {None, size}:
                return f"has {size} bytes instead of {num_bytes}"
            if hash_ is not None:
                found = _xxh64(file)
                if found != hash_:
                    return f"has xxh64 {found} instead of {hash_}"
    except FileNotFoundError:
        return "is missing"
    return None


def _xxh64(file: BinaryIO) -> str:
    digest = xxhash.xxh64()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def remove_all(path: Path) -> None:
    """Remove a file and those that downloaders write beside it before they rename them."""
    for part in path.parent.glob(f"{path.name}*"):
        part.unlink(missing_ok=True)

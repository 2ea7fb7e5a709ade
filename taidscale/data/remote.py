"""How does a shard get from a bucket to this machine, whole?

The folder of a stream is all that its processes share. A file appears in it, under its own name,
only after its size and hash were found right, and who fetches it holds a lock of the kernel.
"""

import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

from streaming.base.format.mds import MDSReader
from streaming.base.storage import CloudDownloader

from taidscale.data.cache import FETCHING, damage, locked, remove_all
from taidscale.data.names import check_shard_name
from taidscale.durable import flush_to_disk, rename
from taidscale.home import at_home

INDEX = "index.json"
LONGEST_PAUSE = 30.0  # seconds

log = logging.getLogger(__name__)
_random = random.SystemRandom()  # the global one may have the same seed on every rank


class CheckedStream:
    """A folder of MDS shards: data on this machine, or the cache of a bucket.

    Args:
        local: The folder.
        remote: Where the shards come from, as streaming names it, such as `s3://bucket/folder`;
            None if they are all in `local`.
        index_hash: xxh64 of `index.json`, from the manifest; None trusts the index.
        download_retry: Further attempts after one that failed or brought a damaged file.
        download_timeout: Seconds without a byte after which a request fails. A bucket's client
            repeats it by itself, S3's up to 15 times in an attempt.
        first_pause: Seconds before the second attempt, about; doubled before each later one.
        verify: Compare the hashes of shards that are in `local` already, too, when a process
            first reads from them; otherwise only their sizes.

    Raises:
        ValueError: Streaming knows no such kind of remote.
    """

    def __init__(
        self,
        local: str | Path,
        remote: str | None = None,
        *,
        index_hash: str | None = None,
        download_retry: int = 4,
        download_timeout: float = 60.0,
        first_pause: float = 1.0,
        verify: bool = False,
    ) -> None:
        """Open nothing yet."""
        self.local = at_home(local).absolute()
        self.remote = remote.rstrip("/") if remote else None
        self._index_hash = index_hash
        self._num_attempts = 1 + download_retry
        self._timeout = download_timeout
        self._first_pause = first_pause
        self._verify = verify
        self._downloaders: dict[tuple[int, int], CloudDownloader] = {}
        CloudDownloader.get(self.remote)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_downloaders": {}}

    def read_index(self) -> list[MDSReader]:
        """The shards, in order; `index.json` is fetched if it is not here.

        Raises:
            ValueError: It is missing or damaged, or describes other data than `index_hash`.
        """
        path = self.local / INDEX
        if self.remote is not None:
            self._fetch_index(path)
        elif not path.is_file():
            raise ValueError(
                f"no {INDEX} in {self.local}; correct local, or set remote to fetch it"
            )
        if wrong := damage(path, None, self._index_hash):
            raise ValueError(
                f"{path} {wrong}, so the folder holds other data than the manifest describes; "
                "empty it, or choose another for local"
            )
        needs_hash = self.remote is not None or self._verify
        try:
            entries = json.loads(path.read_bytes())["shards"]
            shards = [MDSReader.from_json(str(self.local), None, entry) for entry in entries]
            for shard in shards:
                shard.validate(allow_unsafe_types=False)
                check_shard_name(shard.raw_data.basename, str(path))
                if shard.compression or (needs_hash and "xxh64" not in shard.raw_data.hashes):
                    raise ValueError("shards must be uncompressed and have an xxh64 hash")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no index of usable MDS shards: {error!r}") from error
        if len({shard.raw_data.basename for shard in shards}) < len(shards):
            raise ValueError(f"{path} lists a shard twice; prepare the data again")
        if not shards:
            raise ValueError(f"{path} lists no shards; prepare the data again")
        return shards

    def path(self, shard: MDSReader) -> Path:
        """Where a shard is, or will be."""
        return self.local / str(shard.raw_data.basename)

    def lock(self, name: int | str) -> Path:
        """One of the stream's lock files."""
        return self.local / FETCHING / f"{name}.lock"

    def has(self, shard: MDSReader) -> bool:
        """Whether a shard is in the folder, whole; a damaged one of a cache is deleted.

        Raises:
            RuntimeError: It is missing or damaged and cannot be fetched.
        """
        path, info = self.path(shard), shard.raw_data
        wrong = damage(path, info.bytes, info.hashes["xxh64"] if self._verify else None)
        if wrong and self.remote is None:
            raise RuntimeError(f"shard {path} {wrong}; copy it again, or prepare the data again")
        if wrong and path.exists():
            log.warning("shard %s %s; it is fetched again", path, wrong)
            path.unlink(missing_ok=True)
        return not wrong

    def fetch(self, shard: MDSReader, lock: Path) -> None:
        """Fetch a shard whose `lock` is held.

        Raises:
            RuntimeError: It is out of reach, or damaged in the bucket.
        """
        info = shard.raw_data
        self._fetch(info.basename, lock, lambda p: damage(p, info.bytes, info.hashes["xxh64"]))

    def _fetch_index(self, path: Path) -> None:
        lock = self.lock("index")
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            with locked(lock):
                if path.is_file():
                    return
                if next(self.local.rglob("*.mds"), None) is not None:
                    raise ValueError(
                        f"{self.local} has shards but no {INDEX}, so they may be of other data; "
                        "empty it, or choose another for local"
                    )
                self._fetch(INDEX, lock, lambda p: _damage_of_json(p, self._index_hash))
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        except OSError as error:
            raise ValueError(
                f"cannot keep fetched shards in {self.local} ({error}); choose for local a folder "
                "on a disk of this machine, where locks work"
            ) from error

    def _fetch(self, name: str, lock: Path, damage_of: Callable[[Path], str | None]) -> None:
        for attempt in range(1, self._num_attempts + 1):
            try:
                self._fetch_once(name, lock.with_suffix(".part"), damage_of)
                return
            except Exception as error:  # each cloud's client raises its own types
                reason, remedy = _explain(error)
                failure = f"cannot fetch {self.remote}/{name} (attempt {attempt} of "
                failure += f"{self._num_attempts}): {reason}"
                if attempt == self._num_attempts:
                    raise RuntimeError(f"{failure}; {remedy}") from error
                log.warning("%s", failure)
                pause = min(self._first_pause * 2.0 ** (attempt - 1), LONGEST_PAUSE)
                time.sleep(pause * _random.uniform(0.5, 1.5))  # so that nodes spread

    def _fetch_once(self, name: str, aside: Path, damage_of: Callable[[Path], str | None]) -> None:
        """Download a file aside, check it, and give it its name."""
        target = self.local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_all(aside)
        try:
            self._download(f"{self.remote}/{name}", aside)
            if wrong := damage_of(aside):
                raise _DamagedError(wrong)
            flush_to_disk(aside)
            rename(aside, target)
        finally:
            remove_all(aside)

    def _download(self, source: str, target: Path) -> None:
        # A client and its connections may be shared neither with a forked process nor, while
        # it is made or given up, with another thread.
        owner = (os.getpid(), threading.get_ident())
        downloader = self._downloaders.setdefault(owner, CloudDownloader.get(self.remote))
        try:
            downloader.download(source, str(target), self._timeout)
        except BaseException:
            downloader.clean_up()
            raise


class _DamagedError(Exception):
    """A file came, and is not the one that was asked for."""


def _explain(error: Any) -> tuple[str, str]:
    """What happened, and what to do about it."""
    if isinstance(error, _DamagedError):
        return f"it {error}", "upload it again"
    while isinstance(inner := getattr(error, "last_exception", None), Exception):
        error = inner  # boto3 says no more than that it was tried too often
    return (
        shorten(f"{type(error).__name__}: {error}", width=300, placeholder=" ..."),
        "correct remote, its credentials or the network, or raise data.download_retry or "
        "data.download_timeout",
    )


def _damage_of_json(path: Path, hash_: str | None) -> str | None:
    try:
        json.loads(path.read_bytes())
    except ValueError as error:
        return f"is not valid JSON ({error})"
    return damage(path, None, hash_)

"""This rank's files of one checkpoint: held in host memory, written, and read back."""

import contextlib
import hashlib
import logging
import mmap
import os
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.utils.serialization import config as serialization

from taidscale.checkpoint.host_memory import free_host_memory
from taidscale.checkpoint.manifest import read_hash

log = logging.getLogger(__name__)

BLOCK_BYTES = 2**25
KEEP_FREE = 0.1
"""The part of a node's memory that copies must leave free."""


class HostMemory:
    """Blocks that hold copies until they are written, and are then used again.

    Memory that has been in use takes a copy several times faster than new one: the first save
    of a run is the slow one, and the blocks stay for as long as the run.
    """

    def __init__(self, keep_free: float = KEEP_FREE) -> None:
        self._keep_free, self._warned = keep_free, False
        self._free: list[mmap.mmap] = []

    def take(self) -> mmap.mmap | None:
        """A block; None where another one would leave too little memory to the rest."""
        if self._free:
            return self._free.pop()
        free, total = free_host_memory()
        if free - BLOCK_BYTES < self._keep_free * total:
            if not self._warned:
                log.warning(
                    "%.1f of %.1f GB of host memory are free, too little for a copy of what is to "
                    "be saved: training waits while a part of it is written",
                    free / 1e9,
                    total / 1e9,
                )
            self._warned = True
            return None
        return mmap.mmap(-1, BLOCK_BYTES)

    def give_back(self, block: mmap.mmap) -> None:
        """Any thread may call it."""
        self._free.append(block)


class RankFiles:
    """What one rank writes into a checkpoint's folder."""

    def __init__(self, folder: Path, rank: int, memory: HostMemory | None) -> None:
        """Hold everything in `memory` until `finish`; without it, write at once."""
        self._folder, self._rank, self._memory = folder, rank, memory
        self._files: list[_File] = []

    def put(self, state: Any, path: Path) -> None:
        """Take a copy of what `torch.load` shall read from the file.

        Args:
            state: what `torch.save` can write; tensors on any device. It may change afterwards.
            path: of the file, somewhere in the folder.

        Raises:
            OSError: if it was not held in memory and could not be written.
        """
        file = _File(path, self._memory)
        self._files.append(file)
        # The manifest's hashes say more than torch's checksums, and those take most of the time.
        with serialization.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
            torch.save(state, file)  # type: ignore[arg-type]  # all that it needs is `write`
        if file.failure is not None:
            raise OSError(f"{path}: {file.failure}")

    def finish(self) -> dict[str, dict[str, Any]]:
        """Write what is held, flush it to the disk, read it back and compare.

        Returns:
            What the manifest says of each file, by its name in the folder.

        Raises:
            OSError: if a file could not be written, or is not what was written.
        """
        entries = {}
        for file in self._files:
            try:
                num_bytes, sha256 = file.finish()
            except OSError as error:
                raise OSError(f"{file.path}: {error}") from None
            entries[str(file.path.relative_to(self._folder))] = {
                "bytes": num_bytes,
                "sha256": sha256,
                "rank": self._rank,
            }
        return entries

    def discard(self) -> None:
        """Close what was not finished: as long as it is open, it takes space on the disk."""
        for file in self._files:
            file.discard()


class _File:
    """Where `torch.save` writes to."""

    def __init__(self, path: Path, memory: HostMemory | None) -> None:
        self.path, self._memory = path, memory
        self.failure: OSError | None = None
        self._held: deque[mmap.mmap] = deque()
        self._room = 0
        """Bytes that are still free in the last block."""
        self._file: BinaryIO | None = None
        self._num_bytes, self._hash = 0, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        """Hold or write. A failure is kept for later, because torch would hide its reason."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and self.failure is None:
                rest = self._hold(rest)
        except OSError as error:
            self.failure = error
        return size

    def flush(self) -> None:
        """`torch.save` calls it; `finish` does it."""

    def finish(self) -> tuple[int, str]:
        """Write what is held, flush, read back and compare; size in bytes and SHA-256."""
        self._write_held()
        assert self._file is not None, "torch.save writes something"
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())
        written = self._num_bytes, self._hash.hexdigest()
        if (found := read_hash(self.path, from_disk=True)) != written:
            raise OSError(
                f"read back, it has {found[0]:,} bytes of SHA-256 {found[1][:16]}... instead of "
                f"{written[0]:,} of {written[1][:16]}...: this disk cannot be trusted"
            )
        return written

    def discard(self) -> None:
        """Keep nothing of it."""
        self._held.clear()
        if self._file is not None:
            with contextlib.suppress(OSError):  # it may flush to a full disk
                self._file.close()

    def _hold(self, data: memoryview) -> memoryview:
        """Copy the beginning; write it instead, where there is no memory. Returns the rest."""
        if self._memory is not None and self._room == 0:
            block = self._memory.take()
            if block is None:
                self._write_held()
                self._memory = None
            else:
                self._held.append(block)
                self._room = BLOCK_BYTES
        if self._memory is None:
            self._write(data)
            return data[:0]
        size = min(len(data), self._room)
        start = BLOCK_BYTES - self._room
        self._held[-1][start : start + size] = data[:size]
        self._room -= size
        return data[size:]

    def _write_held(self) -> None:
        while self._held:
            block = self._held.popleft()
            size = BLOCK_BYTES if self._held else BLOCK_BYTES - self._room
            self._write(memoryview(block)[:size])
            assert self._memory is not None, "it has lent the block"
            self._memory.give_back(block)

    def _write(self, data: memoryview) -> None:
        if self._file is None:
            self._file = self.path.open("wb")
        self._hash.update(data)
        self._file.write(data)
        self._num_bytes += len(data)

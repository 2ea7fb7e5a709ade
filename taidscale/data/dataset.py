"""Which sample has which number, and is it here?

Streaming reads the shards. Its `StreamingDataset` is not used: it names files before it checks
them, and keeps in shared memory who fetches what, so that a process which fails or is killed
leaves others waiting for ever, and blocks that refuse the next run.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming.base.format.mds import MDSReader
from streaming.base.util import bytes_to_int
from torch.utils.data import Dataset

from taidscale.data.cache import CacheLimit, locked
from taidscale.data.remote import INDEX, CheckedStream

NUM_LOCKS = 4096  # of a stream; shards that share one are fetched one after the other
READ_TRIES = 8  # of a shard that is deleted again before it is read

Sample = dict[str, NDArray[Any]]


class SampleDataset(Dataset[Sample]):
    """The samples of some streams, one stream after the other, by number.

    Any number of processes and threads of a node may read; a shard is fetched once for all.

    Args:
        streams: Each with a folder of its own.
        cache_limit: Bytes, or such as "500gb", that the folders of all streams with `remote`
            may take together; None is without limit. The coldest shards are deleted first.

    Attributes:
        shards: Of all streams.
        samples_per_shard: [shards] int64.
        stream_per_shard: [shards] int64 indices into `streams`.

    Raises:
        ValueError: An index is missing or unusable, or the limit is too low.
    """

    def __init__(
        self, streams: Sequence[CheckedStream], cache_limit: int | str | None = None
    ) -> None:
        """Read the indices, fetching them where needed."""
        self.streams = list(streams)
        of_stream = [stream.read_index() for stream in self.streams]
        self.shards = [shard for shards in of_stream for shard in shards]
        self.samples_per_shard = np.array([shard.samples for shard in self.shards], np.int64)
        self.stream_per_shard = np.repeat(np.arange(len(of_stream)), [len(s) for s in of_stream])
        self._ends: list[int] = [0, *accumulate(shard.samples for shard in self.shards)]
        self._seen: set[int] = set()  # shards that this process found here, and whole
        self._limit = None
        caches = [stream.local for stream in self.streams if stream.remote is not None]
        if cache_limit is not None and caches:
            limit = int(bytes_to_int(cache_limit))
            least = 4 * max(int(shard.raw_data.bytes) for shard in self.shards)
            least += sum((folder / INDEX).stat().st_size for folder in caches)
            if limit < least:
                raise ValueError(
                    f"data.cache_limit is {limit} bytes, less than the indices and four shards "
                    f"take; set it to {least} at least"
                )
            self._limit = CacheLimit(caches, limit)

    def __len__(self) -> int:
        return self._ends[-1]

    def shard_of(self, index: int) -> int:
        """Number of the shard that holds a sample."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no sample {index} among {len(self)}")
        return bisect_right(self._ends, index) - 1

    def __getitem__(self, index: int) -> Sample:
        """Read a sample; its shard is fetched if it is not here.

        Raises:
            RuntimeError: The shard is missing, damaged or out of reach.
        """
        shard_id = self.shard_of(index)
        for _ in range(READ_TRIES):
            self.prepare_shard(shard_id)
            try:
                sample: Sample = self.shards[shard_id][int(index) - self._ends[shard_id]]
                return sample
            except FileNotFoundError:
                self._seen.discard(shard_id)  # deleted in this moment, to make room
        raise RuntimeError(
            f"{self.shards[shard_id].raw_data.basename} was deleted {READ_TRIES} times before it "
            "could be read; raise data.cache_limit"
        )

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Have a shard on this machine, by fetching it or by waiting for who does.

        Args:
            shard_id: Its number.
            blocking: Whether to wait; otherwise it is left to who fetches it.

        Raises:
            RuntimeError: It is missing, damaged or out of reach.
        """
        stream, shard = self.streams[self.stream_per_shard[shard_id]], self.shards[shard_id]
        if shard_id in self._seen and self._is_kept(stream, shard):
            return
        if stream.remote is None:
            stream.has(shard)
        else:
            lock = stream.lock(shard_id % NUM_LOCKS)
            with locked(lock, blocking) as file:
                if file is None:
                    return
                if not stream.has(shard):
                    size = shard.raw_data.bytes
                    with self._limit.room(size, file) if self._limit else nullcontext():
                        stream.fetch(shard, lock)
        self._seen.add(shard_id)

    def _is_kept(self, stream: CheckedStream, shard: MDSReader) -> bool:
        """Whether a shard that was here still is; marks it as in use."""
        if self._limit is None or stream.remote is None:
            return True  # nobody deletes it
        try:
            os.utime(stream.path(shard))
        except FileNotFoundError:
            return False
        return True

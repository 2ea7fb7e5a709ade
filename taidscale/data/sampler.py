"""Which samples this rank reads next, and their shards ahead of time."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

import numpy as np
from streaming.base.world import World

from taidscale.config.data import DataConfig
from taidscale.data.dataset import SampleDataset
from taidscale.data.order import Passes, Position, take_step

DOWNLOAD_THREADS = 4


class RankSampler:
    """Numbers of the samples of this rank's micro-batches, without end.

    Args:
        data: Streams and how to read them.
        shards: Of all streams.
        passes: The streams, by name, in their order.
        position: Where to begin.
        ahead: The position after each step that was handed out is appended to it.
        micro_batch_size: Sequences of a micro-batch.
        grad_accum_steps: Micro-batches of a step.
    """

    def __init__(
        self,
        data: DataConfig,
        shards: SampleDataset,
        passes: Mapping[str, Passes],
        position: Position,
        ahead: deque[Position],
        *,
        micro_batch_size: int,
        grad_accum_steps: int,
    ) -> None:
        self._data, self._shards, self._passes = data, shards, passes
        self._position, self._ahead = position, ahead
        sizes = np.array([stream.num_samples for stream in passes.values()])
        self._first = np.cumsum(sizes) - sizes  # of each stream
        world = World.detect()
        self._rank = world.rank
        self._shape = world.num_ranks, grad_accum_steps, micro_batch_size

    def __iter__(self) -> Iterator[list[int]]:
        """A micro-batch at a time."""
        position = self._position
        remote = any(stream.remote for stream in self._data.streams)
        num_ahead = self._data.predownload_steps if remote else 0
        steps: deque[tuple[list[list[int]], Position]] = deque()
        # Its threads begin here, after the workers have been forked.
        fetch = _FetchAhead(self._shards, every=num_ahead) if num_ahead else None
        while True:
            weights, count = self._weights(position.step), int(np.prod(self._shape))
            step, position = take_step(self._passes, position, weights, count)
            numbers = step.samples + self._first[step.streams]
            own = numbers.reshape(self._shape)[self._rank]
            if fetch:
                fetch(own.flat, position.step)
            steps.append((own.tolist(), position))
            if len(steps) > num_ahead:
                micro_batches, after = steps.popleft()
                self._ahead.append(after)
                yield from micro_batches

    def _weights(self, step: int) -> dict[str, float]:
        """The mix of the step after `step`."""
        weights = self._data.proportions_at(step)
        if weights is not None:
            return weights
        return {
            name: stream.choose or (stream.repeat or 1.0) * own.num_samples
            for stream, (name, own) in zip(self._data.streams, self._passes.items(), strict=True)
        }


class _FetchAhead:
    """Has shards fetched in the background, each once in a while at most.

    The threads end with the process, in the middle of a download too.
    """

    def __init__(self, shards: SampleDataset, every: int) -> None:
        self._shards, self._every = shards, every
        self._asked: dict[int, int] = {}
        self._wanted: SimpleQueue[int] = SimpleQueue()
        for _ in range(DOWNLOAD_THREADS):
            Thread(target=self._fetch, daemon=True).start()

    def __call__(self, samples: Iterable[int], step: int) -> None:
        """Fetch the shards of some samples of a step."""
        for shard in dict.fromkeys(self._shards.shard_of(number) for number in samples):
            if self._asked.get(shard, -self._every) + self._every <= step:
                self._asked[shard] = step
                self._wanted.put(shard)

    def _fetch(self) -> None:
        while True:
            # What fails here fails again, and is reported, in the worker that needs it.
            with suppress(Exception):
                self._shards.prepare_shard(self._wanted.get(), blocking=False)

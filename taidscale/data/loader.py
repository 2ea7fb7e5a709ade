"""The next optimizer step's micro-batches, and where we are in the data.

Shapes: B sequences per rank and micro-batch, S `seq_len`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from streaming.base.world import World
from torch.utils.data import DataLoader, Dataset

from taidscale.config.data import DataConfig
from taidscale.data.batches import MicroBatch, Sample, collate
from taidscale.data.order import Passes, Position, Shuffle, StepSamples, take_step
from taidscale.data.sample import WEIGHTS, check_columns
from taidscale.data.samples import Shards
from taidscale.data.streams import open_streams

DOWNLOAD_THREADS = 4


class TrainingLoader:
    """The training samples, in the order of `order.py`, from wherever they are.

    Every stream is read in passes of its own, endlessly; steps may straddle their ends.

    Args:
        data: Streams and how to read them.
        seq_len: S.
        micro_batch_size: B.
        grad_accum_steps: Micro-batches of a step.
        seed: Fixes the order.
        vocab_size: Ids must lie below.

    Cost: some barriers over the world while it is made, nothing afterwards.

    Raises:
        ValueError: A stream is missing or damaged or has other sequences.
    """

    def __init__(
        self,
        data: DataConfig,
        *,
        seq_len: int,
        micro_batch_size: int,
        grad_accum_steps: int,
        seed: int,
        vocab_size: int,
    ) -> None:
        """Open the streams at the first sample."""
        self._world = World.detect()
        self._data, self._seed = data, seed
        self._micro_batch_size, self._grad_accum_steps = micro_batch_size, grad_accum_steps
        self._shards = open_streams(data)
        check_columns(self._shards.shards, seq_len)
        self._passes = _passes(data, self._shards, seed)
        self._position = Position()
        self._ahead: deque[Position] = deque()  # after each step that was given to the workers
        self._loader: Iterator[MicroBatch] | None = None
        self._collate = partial(
            collate,
            vocab_size=vocab_size,
            within_document=data.attention == "within_document",
            with_weights=any(WEIGHTS in shard.column_names for shard in self._shards.shards),
        )

    @property
    def passes(self) -> dict[str, float]:
        """How often each stream was read so far."""
        taken = self._position.taken
        return {name: taken.get(name, 0) / p.num_samples for name, p in self._passes.items()}

    def next_step(self) -> list[MicroBatch]:
        """The next `grad_accum_steps` micro-batches of this rank, on the CPU.

        Raises:
            RuntimeError: The data cannot be read.
        """
        if self._loader is None:
            self._loader = iter(self._start())
        try:
            micro_batches = [next(self._loader) for _ in range(self._grad_accum_steps)]
        except Exception as error:
            reason = str(error).strip().splitlines()[-1:]
            raise RuntimeError(
                f"cannot read the data of step {self._position.step + 1}: {''.join(reason)}"
            ) from error
        self._position = self._ahead.popleft()
        return micro_batches

    def state_dict(self) -> dict[str, Any]:
        """The position after what was handed out; JSON types, the same on every rank."""
        return asdict(self._position) | {
            "num_samples": {name: stream.num_samples for name, stream in self._passes.items()},
            "order": self._order(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken: on any number of ranks, with any batch sizes.

        Streams may have been added and the mix may be another from here on.

        Raises:
            ValueError: The state belongs to other data or another order of them.
            RuntimeError: A step was taken already.
        """
        if self._loader is not None:
            raise RuntimeError("load the state of a TrainingLoader before its first step")
        problems = [
            f"data.{name} was {before!r} and is {now!r}"
            for (name, before), now in zip(
                state["order"].items(), self._order().values(), strict=True
            )
            if before != now
        ]
        for name, taken in state["taken"].items():
            before, now = state["num_samples"][name], self._passes.get(name)
            if now is None and taken:
                problems.append(
                    f"stream {name!r}, which was read, is gone; its proportion may be 0"
                )
            elif now is not None and now.num_samples != before:
                problems.append(f"stream {name!r} had {before} samples and has {now.num_samples}")
        if problems:
            raise ValueError(
                f"the data are not those of the checkpoint: {'; '.join(problems)}. Put them back "
                "for an exact continuation, or begin a new run"
            )
        names = Position.__dataclass_fields__
        self._position = Position(**{name: state[name] for name in names})

    def _order(self) -> dict[str, Any]:
        """What, besides the streams and the mix, the order depends on."""
        names = ("shuffle", "shuffle_algo", "shuffle_block_size", "num_canonical_nodes")
        return {name: getattr(self._data, name) for name in names} | {"seed": self._seed}

    def _start(self) -> "DataLoader[MicroBatch]":
        workers = self._data.num_workers
        return DataLoader(
            _Samples(self._shards),
            batch_sampler=_Endless(self._sample_ids),
            num_workers=workers,
            prefetch_factor=self._data.prefetch_factor if workers else None,
            pin_memory=torch.cuda.is_available(),
            collate_fn=self._collate_samples,
            # Its own, so that starting to iterate does not move the global random state.
            generator=torch.Generator().manual_seed(self._seed),
        )

    def _collate_samples(self, samples: Sequence[Any]) -> MicroBatch:
        rows, keys = zip(*samples, strict=True)
        return self._collate(rows, keys)

    def _sample_ids(self) -> Iterator[list[int]]:
        """Numbers of the samples of this rank's micro-batches, without end."""
        ranks, accum, size = self._world.num_ranks, self._grad_accum_steps, self._micro_batch_size
        position = self._position
        remote = any(stream.remote for stream in self._data.streams)
        num_ahead = self._data.predownload_steps if remote else 0
        steps: deque[tuple[list[list[int]], Position]] = deque()
        # Threads begin here, after the workers have been forked.
        with ThreadPoolExecutor(DOWNLOAD_THREADS) as threads:
            fetch = _FetchAhead(self._shards, threads, every=num_ahead)
            while True:
                shares = self._shares(position.step)
                step, position = take_step(self._passes, position, shares, ranks * accum * size)
                own = self._ids(step).reshape(ranks, accum, size)[self._world.rank]
                if num_ahead:
                    fetch(own.flat, position.step)
                steps.append((own.tolist(), position))
                if len(steps) > num_ahead:
                    micro_batches, after = steps.popleft()
                    self._ahead.append(after)
                    yield from micro_batches

    def _ids(self, step: StepSamples) -> NDArray[np.int64]:
        sizes = [stream.num_samples for stream in self._passes.values()]
        ids: NDArray[np.int64] = step.samples + (np.cumsum(sizes) - sizes)[step.streams]
        return ids

    def _shares(self, step: int) -> dict[str, float]:
        """The mix of the step after `step`."""
        weights = self._data.proportions_at(step)
        if weights is None:
            weights = {}
            for stream, (name, own) in zip(self._data.streams, self._passes.items(), strict=True):
                repeated = (stream.repeat or 1.0) * own.num_samples
                weights[name] = stream.choose or repeated
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}


class _Samples(Dataset[Any]):
    """Shards as a map: number of a sample to the sample and its key."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._starts = np.cumsum(shards.samples_per_shard) - shards.samples_per_shard
        streams = shards.stream_per_shard
        self._keys = np.stack(
            [streams, np.arange(len(streams)) - np.searchsorted(streams, streams)]
        )

    def __getitem__(self, number: int) -> tuple[Sample, tuple[int, int, int]]:
        shard = self._shards.shard_of(number)
        stream, of_stream = self._keys[:, shard].tolist()
        return self._shards[number], (stream, of_stream, number - int(self._starts[shard]))


class _Endless:
    """Lets a DataLoader iterate over what a function yields."""

    def __init__(self, batches: Callable[[], Iterator[list[int]]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return self._batches()


class _FetchAhead:
    """Has shards fetched in the background, each once in a while at most."""

    def __init__(self, shards: Shards, threads: ThreadPoolExecutor, every: int) -> None:
        self._shards, self._threads, self._every = shards, threads, every
        self._asked: dict[int, int] = {}

    def __call__(self, samples: Iterable[int], step: int) -> None:
        """Fetch the shards of some samples of a step."""
        for shard in dict.fromkeys(self._shards.shard_of(number) for number in samples):
            if self._asked.get(shard, -self._every) + self._every <= step:
                self._asked[shard] = step
                # What fails here fails again, and is reported, in the worker that needs it.
                self._threads.submit(self._shards.prepare_shard, shard, False)


def _passes(data: DataConfig, shards: Shards, seed: int) -> dict[str, Passes]:
    shuffle = Shuffle(
        data.shuffle_algo if data.shuffle else None,
        seed,
        data.num_canonical_nodes,
        data.shuffle_block_size,
    )
    return {
        stream.stream_name: Passes(
            stream.stream_name,
            shards.samples_per_shard[shards.stream_per_shard == number].tolist(),
            shuffle,
        )
        for number, stream in enumerate(data.streams)
    }

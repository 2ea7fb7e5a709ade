"""Which sample comes at which place of a run.

The order is a function of the data, the mix and the seed alone. Ranks, nodes and micro-batches
only share it out, so that a run may continue on other machines with nothing lost or repeated.

Each stream is read in passes: in every pass each of its samples comes once, and a stream that
ends begins its next pass, in another order, whatever the other streams do. A pass consists of
`num_lanes` lanes which are read side by side; a lane has its own shards. The samples of a step are
shared out in the order of their lanes: where each stream's divide over the nodes, a node fetches
only its own part of the data; in a mix, some shards are fetched by neighbours too.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming.base.shuffle import get_shuffle

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Shuffle:
    """How a pass is ordered.

    Args:
        algorithm: One of streaming's shuffle algorithms; None reads samples as they lie.
        seed: Fixes the order.
        num_lanes: Parts of a stream that are read side by side.
        block_size: Samples within which one may move.
    """

    algorithm: str | None
    seed: int
    num_lanes: int
    block_size: int


class Passes:
    """The endless row of one stream's samples, pass after pass.

    Memory: 4 bytes per sample of the stream for the present pass (8 beyond 4 billion samples), and
    12 more while it is made, which takes about 70 ns a sample.

    Args:
        name: Gives equal streams different orders.
        samples_per_shard: Sizes of the stream's shards, in order.
        shuffle: How a pass is ordered.
    """

    def __init__(self, name: str, samples_per_shard: Sequence[int], shuffle: Shuffle) -> None:
        self.num_samples = sum(samples_per_shard)
        self._sizes = np.array(samples_per_shard, np.int64)
        self._shuffle = shuffle
        self._seed = (shuffle.seed + zlib.crc32(name.encode())) % 2**32
        self._num_lanes = min(shuffle.num_lanes, self.num_samples) if shuffle.algorithm else 1
        lanes = np.arange(self._num_lanes)
        self._starts = self.num_samples * np.arange(self._num_lanes + 1) // self._num_lanes
        # Neighbours in this order lie far apart, so that any few of them are from all nodes.
        self._lanes = lanes[np.argsort(_reversed_bits(lanes), kind="stable")]
        self._number, self._pass = -1, np.empty(0, np.int64)

    def take(self, first: int, count: int) -> tuple[Int64s, NDArray[np.float64]]:
        """Samples at places `first` to `first + count - 1` of the row.

        Returns:
            Numbers of the samples within the stream, and which part of the stream's lanes each
            belongs to, from 0 to below 1.
        """
        samples, lanes = np.empty(count, np.int64), np.empty(count)
        done = 0
        while done < count:
            number, place = divmod(first + done, self.num_samples)
            stop = min(count, done + self.num_samples - place)
            places = np.arange(place, place + stop - done)
            samples[done:stop] = self._order_of(number)[places]
            lanes[done:stop] = self._lane_of(places) / self._num_lanes
            done = stop
        return samples, lanes

    def _order_of(self, number: int) -> NDArray[Any]:
        """Sample numbers of a whole pass."""
        if self._number != number:
            self._number, self._pass = number, self._make(number)
        return self._pass

    def _make(self, number: int) -> NDArray[Any]:
        dtype = np.uint32 if self.num_samples <= 1 << 32 else np.uint64
        if self._shuffle.algorithm is None:
            return np.arange(self.num_samples, dtype=dtype)
        # Lane after lane, each as long as `_starts` says.
        by_lane = get_shuffle(
            self._shuffle.algorithm,
            self._sizes,
            self._num_lanes,
            self._seed,
            number,
            self._shuffle.block_size,
        ).astype(dtype)
        starts = self._starts[self._lanes]
        columns = self.num_samples // self._num_lanes
        order = np.empty(self.num_samples, dtype)
        whole = order[: columns * self._num_lanes].reshape(columns, self._num_lanes)
        for place, start in enumerate(starts):
            whole[:, place] = by_lane[start : start + columns]
        order[whole.size :] = by_lane[starts[self._longer()] + columns]
        return order

    def _lane_of(self, places: Int64s) -> Int64s:
        lanes: Int64s = self._lanes[places % self._num_lanes]
        last = places >= self.num_samples - self.num_samples % self._num_lanes
        if last.any():
            longer = self._lanes[self._longer()]
            lanes[last] = longer[places[last] % self._num_lanes]
        return lanes

    def _longer(self) -> NDArray[np.bool_]:
        """Lanes, in the order of reading, that have one sample more than others."""
        lengths = np.diff(self._starts)[self._lanes]
        longer: NDArray[np.bool_] = lengths > self.num_samples // self._num_lanes
        return longer


@dataclass
class Position:
    """Where a run is in its data; all of it is saved.

    Args:
        step: Optimizer steps whose samples were taken.
        taken: Samples taken of each stream, by name.
        shares: The mix in force, by name: those above 0, which add up to 1.
        taken_of_mix: Samples taken of each stream since the mix came into force.
    """

    step: int = 0
    taken: dict[str, int] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    taken_of_mix: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StepSamples:
    """The samples of one optimizer step, in the order in which ranks share them out.

    Args:
        streams: [G] index of each sample's stream.
        samples: [G] its number within the stream.
    """

    streams: Int64s
    samples: Int64s


def mix(shares: Sequence[float], taken: Sequence[int], count: int) -> Int64s:
    """Streams of the next `count` samples, at every moment within a sample or so of their shares.

    Sample j of a stream with share p is due at time (j + 1/2) / p; streams are merged by time.

    Args:
        shares: Of each stream, above 0; they add up to 1.
        taken: Samples that were taken of each under these shares.
        count: How many samples.

    Returns:
        [count] indices of streams.
    """
    times, streams = [], []
    for stream, (share, before) in enumerate(zip(shares, taken, strict=True)):
        most = int(count * share) + len(shares) + 2
        times.append((np.arange(before, before + most) + 0.5) / share)
        streams.append(np.full(most, stream, np.int64))
    due = np.argsort(np.concatenate(times), kind="stable")[:count]
    merged: Int64s = np.concatenate(streams)[due]
    return merged


def take_step(
    passes: Mapping[str, Passes], position: Position, weights: Mapping[str, float], count: int
) -> tuple[StepSamples, Position]:
    """The samples of the next optimizer step, and the position after it.

    Args:
        passes: The streams, by name, in the order of `StepSamples.streams`.
        position: Before the step.
        weights: The mix of this step, by name, relative to each other.
        count: G, samples of the step.
    """
    # Neither the order of the streams nor those that are not read may change anything.
    total = math.fsum(weights.values())
    shares = {name: weights[name] / total for name in sorted(weights) if weights[name] > 0}
    before = position.taken_of_mix if shares == position.shares else {}
    names = list(shares)
    drawn = mix(list(shares.values()), [before.get(name, 0) for name in names], count)
    streams, samples, lanes = np.empty_like(drawn), np.empty_like(drawn), np.empty(count)
    taken, of_mix = dict(position.taken), {}
    for number, name in enumerate(names):
        mine = drawn == number
        num = int(mine.sum())
        streams[mine] = list(passes).index(name)
        samples[mine], lanes[mine] = passes[name].take(taken.get(name, 0), num)
        taken[name] = taken.get(name, 0) + num
        of_mix[name] = before.get(name, 0) + num
    order = np.argsort(lanes, kind="stable")
    after = Position(position.step + 1, taken, shares, of_mix)
    return StepSamples(streams[order], samples[order]), after


def _reversed_bits(values: Int64s) -> Int64s:
    """Each number below the length with its binary digits from right to left."""
    width = max(1, int(len(values) - 1).bit_length())
    reversed_ = np.zeros_like(values)
    for bit in range(width):
        reversed_ |= (values >> bit & 1) << (width - 1 - bit)
    return reversed_

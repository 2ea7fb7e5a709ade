"""The next optimizer step's micro-batches, and where we are in the data.

Shapes: B sequences per rank and micro-batch, S `seq_len`.
"""

import contextlib
import json
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
import xxhash
from torch.utils.data import DataLoader, Dataset

from taidscale.config.data import DataConfig
from taidscale.data.batches import HandedOver, MicroBatch, Sample, collate
from taidscale.data.dataset import SampleDataset
from taidscale.data.order import Passes, Position, Shuffle
from taidscale.data.sample_columns import WEIGHTS, check_columns
from taidscale.data.sampler import RankSampler
from taidscale.data.streams import open_streams

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class TrainingLoader:
    """The training samples, in the order of `order.py`, from wherever they are.

    Every stream is read in epochs of its own, endlessly; steps may straddle their ends.

    Args:
        data: Streams and how to read them.
        seq_len: S.
        micro_batch_size: B.
        grad_accum_steps: Micro-batches of a step.
        seed: Fixes the order.
        vocab_size: Ids must lie below.
        left_out: Tokens of the data's tokenizer from there on; see `collate`.

    Cost: no collectives.

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
        left_out: Mapping[int, str] | None = None,
    ) -> None:
        """Open the streams at the first sample."""
        self._data, self._seed = data, seed
        self._micro_batch_size, self._grad_accum_steps = micro_batch_size, grad_accum_steps
        self._shards = open_streams(data)
        check_columns(self._shards.shards, seq_len)
        self._passes = _passes(data, self._shards, seed)
        self._digests = {name: _digest(self._shards, k) for k, name in enumerate(self._passes)}
        self._position = Position()
        self._ahead: deque[Position] = deque()  # after each step that was given to the workers
        self._loader: Iterator[MicroBatch | HandedOver] | None = None
        self._collate = partial(
            _collate,
            vocab_size=vocab_size,
            left_out=left_out,
            within_document=data.attention == "within_document",
            with_weights=any(WEIGHTS in shard.column_names for shard in self._shards.shards),
        )

    @property
    def epochs(self) -> dict[str, float]:
        """How often each stream was read so far."""
        taken = self._position.taken
        return {name: taken.get(name, 0) / p.num_samples for name, p in self._passes.items()}

    @property
    def mix(self) -> dict[str, float]:
        """Shares of the streams in the step that was handed out last; they add up to 1."""
        return self._position.shares

    def next_step(self) -> list[MicroBatch]:
        """The next `grad_accum_steps` micro-batches of this rank, on the CPU.

        Raises:
            ValueError: The data cannot be read.
            RuntimeError: A worker has died, of which the data know nothing: another start may do.
        """
        try:
            if self._loader is None:
                self._loader = iter(self._start())
            handed = [next(self._loader) for _ in range(self._grad_accum_steps)]
        except Exception as error:
            reason = "".join(str(error).strip().splitlines()[-1:]) or repr(error)
            said = f"cannot read the data of step {self._position.step + 1}: {reason}"
            # What a worker raises arrives as "Caught ..."; else it died, perhaps while it sent.
            if not self._data.num_workers or str(error).startswith("Caught "):
                raise ValueError(said) from error
            raise RuntimeError(f"{said} (a data worker has died)") from error
        self._position = self._ahead.popleft()
        return [each.unpack() if isinstance(each, HandedOver) else each for each in handed]

    def state_dict(self) -> dict[str, Any]:
        """The position after what was handed out; JSON types, the same on every rank."""
        return asdict(self._position) | {"shards": self._digests, "order": self._order()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken: on any number of ranks, with any batch sizes.

        Streams may have been added and the mix may be another from here on.

        Raises:
            ValueError: The state belongs to other data or another order of them.
            RuntimeError: A step was taken already.
        """
        if self._loader is not None:
            raise RuntimeError("load the state of a TrainingLoader before its first step")
        self.check_state(state)
        position = {name: state[name] for name in Position.__dataclass_fields__}
        taken = {name: number for name, number in state["taken"].items() if number}
        self._position = Position(**position | {"taken": taken})

    def check_state(self, state: dict[str, Any]) -> None:
        """Ask whether `load_state_dict` could continue from a state.

        Raises:
            ValueError: The state belongs to other data or another order of them.
        """
        expected = self.state_dict()
        if state.keys() != expected.keys() or state["order"].keys() != expected["order"].keys():
            raise ValueError(
                "the checkpoint's position in the data was written by another version of "
                "TAIDScale; continue with that version, or begin a new run"
            )
        problems = [
            f"{'' if name == 'seed' else 'data.'}{name} was {state['order'][name]!r} and is {now!r}"
            for name, now in expected["order"].items()
            if state["order"][name] != now
        ]
        for name, taken in state["taken"].items():
            if taken and name not in self._passes:
                problems.append(
                    f"stream {name!r}, which was read, is gone; where it is elsewhere now, keep "
                    "its name (`name:`), and where it is done with, set its proportion to 0"
                )
            elif taken and state["shards"][name] != self._digests[name]:
                problems.append(f"stream {name!r} has other shards")
        if problems:
            raise ValueError(
                f"the data are not those of the checkpoint: {'; '.join(problems)}. Put them back "
                "for an exact continuation, or begin a new run"
            )

    def _order(self) -> dict[str, Any]:
        """What, besides the streams and the mix, the order depends on."""
        names = ("shuffle", "shuffle_algo", "shuffle_block_size", "num_canonical_nodes")
        return {name: getattr(self._data, name) for name in names} | {"seed": self._seed}

    def _start(self) -> "DataLoader[HandedOver]":
        workers = self._data.num_workers
        return DataLoader(
            _Samples(self._shards),
            # Neither this nor `collate_fn` may know the loader itself: in a circle its
            # processes would not end when it does.
            batch_sampler=RankSampler(
                self._data,
                self._shards,
                self._passes,
                self._position,
                self._ahead,
                micro_batch_size=self._micro_batch_size,
                grad_accum_steps=self._grad_accum_steps,
            ),
            num_workers=workers,
            prefetch_factor=self._data.prefetch_factor if workers else None,
            worker_init_fn=partial(_begin_worker, os.getpid()),
            pin_memory=torch.cuda.is_available(),
            collate_fn=self._collate,
            # Its own, so that starting to iterate does not move the global random state.
            generator=torch.Generator().manual_seed(self._seed),
        )


class _Samples(Dataset[Any]):
    """By number, a sample and its key."""

    def __init__(self, shards: SampleDataset) -> None:
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


def _begin_worker(rank_pid: int, _worker: int) -> None:
    """Make a worker live exactly as long as its rank.

    What asks a run to save and end is sent to all processes of a rank; a worker that died of it
    would take the rank along. But the rank itself ends its workers by SIGTERM, and waits for them.
    And a rank that is killed leaves workers behind that look only at the process that made them,
    the fork server, which in turn waits for them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    threading.Thread(target=_end_with, args=[rank_pid], daemon=True).start()


def _end_with(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        while True:
            received = signal.sigtimedwait(_STOP_SIGNALS, 1.0)
            if received is not None and received.si_pid == pid:
                break
            os.kill(pid, 0)  # nothing is sent
    os._exit(os.EX_OK)  # any other status would be an error to a rank that is just ending


def _collate(samples: Sequence[Any], **settings: Any) -> HandedOver:
    rows, keys = zip(*samples, strict=True)
    return HandedOver.pack(collate(rows, keys, **settings))


def _passes(data: DataConfig, shards: SampleDataset, seed: int) -> dict[str, Passes]:
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


def _digest(shards: SampleDataset, stream: int) -> str:
    """Of what is in a stream's shards."""
    own = [
        (shard.samples, shard.raw_data.bytes, shard.raw_data.hashes)
        for shard, of_stream in zip(shards.shards, shards.stream_per_shard, strict=True)
        if of_stream == stream
    ]
    return xxhash.xxh64_hexdigest(json.dumps(own, sort_keys=True).encode())

"""What a checkpoint costs a run: blocking, in the background, and DeepSpeed's own.

python benchmarks/checkpoint.py OUT [--layers 12] [--rounds 4] [--tokens 256] [--stage 3]

Two ranks on CPUs train a student of random weights, 97 M parameters unless told otherwise, on its
own next-token loss. In every round each way saves once, in turn, so that all of them meet the same
machine; OUT lies on the disk to be measured, and is emptied of what was written.

- `stall` is how long training waits at the step after which it saves.
- `lost` adds by how much the steps (and the publication) that follow take longer than undisturbed
  ones, until the checkpoint is visible.
- `durable after` is when the checkpoint would survive a crash, from the beginning of the save.
  DeepSpeed's own never flushes, so nobody knows.

The first save in the background needs new memory and is shown apart.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing
from transformers import LlamaConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

WORLD_SIZE = 2
QUIET_STEPS = 3
"""Undisturbed steps before each save."""


@dataclass(frozen=True)
class Cost:
    """Of one save, in seconds, on the slowest rank."""

    stall: float
    lost: float
    durable: float | None


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="of a rank and step")
    parser.add_argument("--stage", type=int, default=3, help="of ZeRO")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        LlamaConfig(
            vocab_size=16_000,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=options.layers,
            num_attention_heads=12,
            num_key_value_heads=12,
            tie_word_embeddings=True,
            architectures=["LlamaForCausalLM"],
        ).save_pretrained(folder)
        context = multiprocessing.get_context("spawn")
        results: Any = context.Queue()
        arguments = (folder, options, results)
        multiprocessing.spawn(run_rank, arguments, nprocs=WORLD_SIZE)
        report(*results.get())


def report(
    num_parameters: int, num_bytes: int, step_seconds: list[float], costs: dict[str, list[Cost]]
) -> None:
    """A row a way: medians, in seconds and in steps."""
    step = statistics.median(step_seconds)
    print(
        f"{num_parameters / 1e6:.0f} M parameters over {WORLD_SIZE} ranks, checkpoints of "
        f"{num_bytes / 1e6:,.0f} MB; an undisturbed step takes {step:.2f} s "
        f"({min(step_seconds):.2f} to {max(step_seconds):.2f})"
    )
    print(
        f"{'way':<26}{'stall':>9}{'of a step':>11}{'lost':>9}{'of a step':>11}{'durable after':>15}"
    )
    for way, found in costs.items():
        stall, lost = (
            statistics.median(getattr(cost, name) for cost in found) for name in ("stall", "lost")
        )
        durable = [cost.durable for cost in found if cost.durable is not None]
        after = f"{statistics.median(durable):.2f} s" if durable else "unknown"
        print(
            f"{way:<26}{stall:>7.2f} s{stall / step:>11.1%}{lost:>7.2f} s{lost / step:>11.1%}"
            f"{after:>15}"
        )


def run_rank(rank: int, folder: str, options: argparse.Namespace, results: Any) -> None:
    """One rank: train, save in every way, hand the figures out."""
    import torch.distributed as dist

    from taidscale.engine.runtime import end_ranks, start_ranks
    from taidscale.engine.student import Student
    from taidscale.losses.vocabulary import Vocabulary
    from taidscale.metrics.clock import StepClock

    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed wants it
    method = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=WORLD_SIZE)
    grid = start_ranks(1, seed=0)
    config = make_config(folder, options)
    student = Student(config, Vocabulary.split(16_000, 0, 1), grid, StepClock(grid.device))
    training = Training(student, grid, options.tokens)
    blocking = Ours(training, Path(folder), "blocking")
    ways: dict[str, Plain | Ours] = {
        "DeepSpeed save_checkpoint": Plain(training, Path(folder)),
        "blocking": blocking,
        "background": Ours(training, Path(folder), "background"),
    }
    for _ in range(2):
        training.step()
    quiet: list[float] = []
    costs: dict[str, list[Cost]] = defaultdict(list)
    for number in range(options.rounds):
        for name, way in ways.items():
            before = [training.step() for _ in range(QUIET_STEPS)]
            quiet += before
            label = f"{name}, first" if name == "background" and number == 0 else name
            costs[label].append(way.save(statistics.median(before)))
    if grid.is_first:
        results.put((student.num_parameters, blocking.num_bytes, quiet, dict(costs)))
    end_ranks()


def make_config(folder: str, options: argparse.Namespace) -> Any:
    """A student of its own, without a teacher."""
    from taidscale.config.schema import RunConfig

    return RunConfig.model_validate(
        {
            "run_dir": "unused",
            "precision": "fp32",
            "total_steps": 1,
            "seq_len": options.tokens,
            "micro_batch_size": 1,
            "global_batch_size": WORLD_SIZE,
            "student": {"init": {"source": "fresh", "config": folder}, "tokenizer": folder},
            "loss": {"objective": "cross_entropy"},
            "learning_rate": {"schedule": "constant", "peak": 1e-4},
            "zero": {"stage": options.stage},
            "data": {"streams": [{"local": "unused"}]},
            "checkpoint": {"every_steps": 1},
        }
    )


class Training:
    """Steps on random tokens."""

    def __init__(self, student: Any, grid: Any, tokens: int) -> None:
        self.student, self.grid = student, grid
        self._tokens = tokens

    def step(self) -> float:
        """Seconds of an optimizer step on the slowest rank."""
        from taidscale.data.batches import MicroBatch
        from taidscale.losses.objective import CROSS_ENTROPY

        ids = torch.randint(0, 16_000, (1, self._tokens + 1))
        batch = MicroBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        self.grid.gather_floats(0.0)
        started = time.perf_counter()
        total, _ = self.student(batch, None, CROSS_ENTROPY)
        self.student.backward(total / self._tokens)
        self.student.step(1e-4)
        return self.slowest(time.perf_counter() - started)

    def slowest(self, seconds: float) -> float:
        """Of all ranks."""
        return max(float(own) for (own,) in self.grid.gather_floats(seconds))


class Plain:
    """`engine.save_checkpoint`, as DeepSpeed ships it."""

    def __init__(self, training: Training, folder: Path) -> None:
        self._training, self._folder = training, folder / "plain"

    def save(self, _: float) -> Cost:
        """Once, over the last one."""
        from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import (
            TorchCheckpointEngine,
        )

        engine = self._training.student._engine
        ours, engine.checkpoint_engine = engine.checkpoint_engine, TorchCheckpointEngine()
        engine.checkpoint_engine.zipfile_serialization = True
        self._training.grid.gather_floats(0.0)
        started = time.perf_counter()
        engine.save_checkpoint(str(self._folder), tag="last")
        seconds = self._training.slowest(time.perf_counter() - started)
        engine.checkpoint_engine = ours
        if self._training.grid.is_first:
            shutil.rmtree(self._folder)
        return Cost(seconds, seconds, None)


class Ours:
    """`CheckpointStore`."""

    def __init__(self, training: Training, folder: Path, write: str) -> None:
        from taidscale.checkpoint.store import CheckpointStore
        from taidscale.config.schema import CheckpointConfig

        config = CheckpointConfig.model_validate({"every_steps": 1, "keep_last": 1, "write": write})
        self._training, self._number = training, 0
        self._store = CheckpointStore(folder / write, training.grid, config)

    @property
    def num_bytes(self) -> int:
        """Of the last checkpoint."""
        assert self._store.last is not None
        files = self._store.load_facts(self._store.last)["files"].values()
        return sum(entry["bytes"] for entry in files)

    def save(self, quiet: float) -> Cost:
        """Once; then train on until it is visible.

        Args:
            quiet: seconds of an undisturbed step.
        """
        training, store, student = self._training, self._store, self._training.student
        self._number += 1
        training.grid.gather_floats(0.0)
        started = time.perf_counter()
        store.begin(self._number, student.save, {}, student.checkpoint_bytes)
        stall = lost = training.slowest(time.perf_counter() - started)
        while store.pending:
            lost += training.step() - quiet
            if not any(busy for (busy,) in training.grid.gather_floats(store.busy)):
                before = time.perf_counter()
                store.publish()
                lost += training.slowest(time.perf_counter() - before)
        return Cost(stall, lost, time.perf_counter() - started)


if __name__ == "__main__":
    main()

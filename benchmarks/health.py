"""What watching over a run costs, as a share of its steps.

python benchmarks/health.py [--tokens 1024] [--rounds 6] [--layers 12] [--stage 2]

Two ranks on CPUs train a student of random weights, 97 M parameters unless told otherwise, on its
own next-token loss: a teacher would make the steps longer and the shares smaller. All seconds are
processor time, to which other programs on the machine do not add. In one run:

- `not finite`: the sums of every gradient and layer output, timed one by one; and, for what they
  cost besides, steps with and without them in turn.
- `copies`, `slow ranks`: what a check takes, spread over `health.check_every_steps` steps.
- `heartbeat, hang, spikes`: what the first rank does after each step.

The first takes as long for few tokens as for many, so its share shrinks with the micro-batch.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from transformers import LlamaConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

WORLD_SIZE, VOCAB_SIZE = 2, 16_000


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1024, help="of a rank and micro-batch")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--stage", type=int, default=2, help="of ZeRO")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=options.layers,
            num_attention_heads=12,
            num_key_value_heads=12,
            max_position_embeddings=options.tokens,
            tie_word_embeddings=True,
            architectures=["LlamaForCausalLM"],
        ).save_pretrained(folder)
        context = multiprocessing.get_context("spawn")
        results: Any = context.Queue()
        multiprocessing.spawn(run_rank, (folder, options, results), nprocs=WORLD_SIZE)
        report(options, *results.get())


def report(
    options: argparse.Namespace,
    num_parameters: int,
    steps: dict[bool, list[float]],
    costs: dict[str, list[float]],
) -> None:
    """A row a part: seconds and the share of a step."""
    step = statistics.median(steps[False])
    print(
        f"{num_parameters / 1e6:.0f} M parameters over {WORLD_SIZE} ranks, ZeRO-{options.stage}, "
        f"{options.tokens} tokens of a rank and step; a step without the watch takes {step:.2f} s "
        f"({min(steps[False]):.2f} to {max(steps[False]):.2f}), with it "
        f"{statistics.median(steps[True]):.2f} s"
    )
    print(f"{'part':<28}{'seconds a step':>16}{'of a step':>12}")
    total = 0.0
    for name, found in costs.items():
        seconds = statistics.median(found)
        total += seconds
        print(f"{name:<28}{seconds:>16.5f}{seconds / step:>12.3%}")
    print(f"{'all':<28}{total:>16.5f}{total / step:>12.3%}")
    pairs = zip(steps[True], steps[False], strict=True)
    ratio = statistics.median(watched / unwatched for watched, unwatched in pairs)
    print(f"median ratio of neighbouring steps, watched by unwatched: {ratio:.4f}")


def run_rank(rank: int, folder: str, options: argparse.Namespace, results: Any) -> None:
    """One rank: train, with and without, and hand the figures out."""
    import torch.distributed as dist

    from taidscale.engine.finite import FiniteWatch
    from taidscale.engine.runtime import end_ranks, start_ranks
    from taidscale.engine.student import Student
    from taidscale.losses.vocabulary import Vocabulary
    from taidscale.metrics.clock import StepClock

    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed wants it
    method = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=WORLD_SIZE)
    grid = start_ranks(1, seed=0)
    watching, seconds = True, 0.0
    see = FiniteWatch.see

    def timed_see(watch: Any, kind: Any, place: str, tensor: torch.Tensor) -> None:
        nonlocal seconds
        before = time.process_time()
        see(watch, kind, place, tensor if watching else torch.zeros(()))
        seconds += time.process_time() - before

    FiniteWatch.see = timed_see  # type: ignore[method-assign]
    config = make_config(folder, options)
    student = Student(config, Vocabulary.split(VOCAB_SIZE, 0, 1), grid, StepClock(grid.device))
    train_step(student, grid, options.tokens)
    steps: dict[bool, list[float]] = {True: [], False: []}
    costs: dict[str, list[float]] = {"not finite": []}
    for number in range(options.rounds):
        for watching in (True, False) if number % 2 else (False, True):
            seconds = 0.0
            steps[watching].append(train_step(student, grid, options.tokens))
            if watching:
                costs["not finite"].append(slowest(grid, seconds))
    costs |= checks(config, student, grid, Path(folder))
    if grid.is_first:
        results.put((student.num_parameters, steps, costs))
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


def train_step(student: Any, grid: Any, tokens: int) -> float:
    """Processor seconds of an optimizer step on random tokens, on the slowest rank."""
    from taidscale.data.batches import MicroBatch
    from taidscale.losses.objective import CROSS_ENTROPY

    ids = torch.randint(0, VOCAB_SIZE, (1, tokens + 1))
    batch = MicroBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    grid.gather_floats(0.0)
    started = time.process_time()
    total, _ = student(batch, None, CROSS_ENTROPY)
    student.backward(total / tokens)
    student.step(1e-4)
    return slowest(grid, time.process_time() - started)


def checks(config: Any, student: Any, grid: Any, folder: Path) -> dict[str, list[float]]:
    """Processor seconds a step of all the rest."""
    from taidscale.health.copies import CopyCheck
    from taidscale.health.slow_ranks import SlowRanks
    from taidscale.health.spikes import LossSpikes
    from taidscale.health.watchdog import Heartbeat, Watchdog

    every = config.health.check_every_steps
    copies, slow = CopyCheck(grid), SlowRanks(config.health.slow_rank_ratio, grid)
    spikes, heartbeat = LossSpikes(config.health.spike), Heartbeat(folder)
    for _ in range(config.health.spike.window):
        spikes.see(1.0, {"train": 1.0})
    slow.check()
    costs: dict[str, list[float]] = {
        "copies": [],
        "slow ranks": [],
        "heartbeat, hang, spikes": [],
    }
    with Watchdog(folder, grid.rank, 1000.0) as watchdog:
        for step in range(5):
            marks = [time.process_time()]
            copies.check(step, {}, student.weight_hashes())
            marks.append(time.process_time())
            slow.check()
            marks.append(time.process_time())
            heartbeat.beat(step)
            watchdog.beat(step)
            spikes.see(1.0, {"train": 1.0})
            marks.append(time.process_time())
            parts = zip(costs.values(), marks, marks[1:], (every, every, 1), strict=False)
            for found, start, end, spread in parts:
                found.append(slowest(grid, end - start) / spread)
    return costs


def slowest(grid: Any, seconds: float) -> float:
    """Of all ranks."""
    return max(float(own) for (own,) in grid.gather_floats(seconds))


if __name__ == "__main__":
    main()

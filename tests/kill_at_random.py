"""Kill random ranks of a run at random moments, and see that nothing is lost.

`python -m tests.kill_at_random --kills 100` does it until so many were killed, in as many runs as
that takes; every one of them must end with the weights and the curve of one that was left alone.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.multiprocessing.spawn import ProcessContext, start_processes

from taidscale.checkpoint.folder import finished_checkpoints
from taidscale.engine.student import student_state_dict
from tests.ranks import run_rank
from tests.runs import make_run, read_lines

WORLD_SIZE = 2
TOTAL_STEPS = 40


@dataclass
class Score:
    """What happened."""

    kills: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    """How often during what."""
    finished: int = 0
    """Runs, each equal to the undisturbed one."""
    steps_lost: int = 0
    """Optimizer steps done again."""

    def __str__(self) -> str:
        moments = ", ".join(f"{number} {name}" for name, number in self.moments.most_common())
        return (
            f"{self.kills} kills ({moments}); {self.steps_lost} steps done again; "
            f"{self.finished} runs finished, each equal to the undisturbed one"
        )


def kill_at_random(folder: Path, kills: int, seed: int, *, write: str = "background") -> Score:
    """Train, kill, start again, compare.

    Args:
        folder: for everything.
        kills: how many ranks to kill.
        seed: of the moments and ranks.
        write: `checkpoint.write`.

    Raises:
        AssertionError: if a start fails that was not killed, or a run ends otherwise than the
            undisturbed one.
    """
    chance, score = random.Random(seed), Score()
    checkpoint = {"every_steps": 2, "keep_last": 2, "write": write}
    config = make_run(folder, total_steps=TOTAL_STEPS, checkpoint=checkpoint)
    undisturbed = folder / "undisturbed"
    started = time.monotonic()
    _wait(_start(config, undisturbed, folder))
    seconds = time.monotonic() - started
    number = 0
    while score.kills < kills or number == 0:
        run_dir = folder / f"killed-{number}"
        number += 1
        finished = False
        while not finished:
            ranks = _start(config, run_dir, folder)
            if score.kills < kills:
                finished = _kill_one(ranks, chance.uniform(0, seconds), chance, run_dir, score)
            else:
                _wait(ranks)
                finished = True
        _compare(run_dir, undisturbed)
        score.finished += 1
        print(score, flush=True)
    return score


def _start(config: Path, run_dir: Path, folder: Path) -> ProcessContext:
    store = tempfile.mktemp(dir=folder, prefix="store-")
    arguments = [str(config), f"run_dir={run_dir}", "teacher.tp_size=2"]
    params = {"arguments": arguments}
    args = (WORLD_SIZE, f"file://{store}", "tests.runs", "train_quietly", params, dict(os.environ))
    context = start_processes(
        run_rank, args, nprocs=WORLD_SIZE, join=False, start_method="forkserver"
    )
    assert isinstance(context, ProcessContext)
    return context


def _wait(ranks: ProcessContext) -> None:
    while not ranks.join():
        pass


def _kill_one(
    ranks: ProcessContext, seconds: float, chance: random.Random, run_dir: Path, score: Score
) -> bool:
    """SIGKILL one rank, and all others once it is dead, as launchers do.

    Half of the time after so many seconds, else soon after a save has begun.

    Returns:
        Whether the run ended before.
    """
    deadline = time.monotonic() + seconds
    wait_for_save = chance.random() < 0.5
    while time.monotonic() < deadline or wait_for_save:
        if ranks.join(timeout=0.01):
            return True
        if wait_for_save and _is_saving(run_dir):
            time.sleep(chance.uniform(0, 0.1))
            break
    victim = chance.choice(ranks.processes)
    moment, steps = _moment(run_dir), _steps(run_dir)
    if not victim.is_alive():
        return ranks.join()
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    time.sleep(chance.choice([0.0, 0.5]))  # the others notice, or have no time to
    for process in ranks.processes:
        process.kill()
        process.join()
    score.kills += 1
    score.moments[moment] += 1
    score.steps_lost += max(0, steps - _saved(run_dir))
    return False


def _moment(run_dir: Path) -> str:
    if not (run_dir / "metrics.jsonl").exists():
        return "at the first start"
    if _is_saving(run_dir):
        return "during a save"
    return "between saves"


def _is_saving(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob("*.partial"))


def _steps(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def _saved(run_dir: Path) -> int:
    found = finished_checkpoints(run_dir / "checkpoints")
    return int(found[-1].name.removeprefix("step-")) if found else 0


def _compare(run_dir: Path, undisturbed: Path) -> None:
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert read_lines(run_dir / name) == read_lines(undisturbed / name), name
    last = Path("checkpoints") / f"step-{TOTAL_STEPS:08d}"
    expected = student_state_dict(undisturbed / last)
    weights = student_state_dict(run_dir / last)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", choices=["background", "blocking"], default="background")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kill_at_random(Path(folder), options.kills, options.seed, write=options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())

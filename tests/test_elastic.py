"""A run goes on with other ranks, another T, ZeRO stage or micro-batch as if nothing had been."""

import contextlib
import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from taidscale.commands.outcome import START_AGAIN
from taidscale.commands.train import main
from taidscale.data.batches import MicroBatch
from taidscale.data.loader import TrainingLoader
from tests.ranks import run_on_ranks
from tests.runs import make_run, read_lines

TOTAL, STOPS = 12, (4, 8)
"""Steps."""

Start = tuple[int, list[str]]
"""Ranks and overrides."""

RANKS: list[Start] = [
    (4, ["teacher.tp_size=2", "micro_batch_size=1"]),
    (2, ["teacher.tp_size=1", "micro_batch_size=2"]),
    (4, ["teacher.tp_size=4", "micro_batch_size=2"]),
]
STAGES: list[Start] = [
    (2, ["zero.offload_optimizer=true", "micro_batch_size=4"]),
    (2, ["zero.stage=2", "micro_batch_size=1"]),
    (2, ["zero.stage=3", "micro_batch_size=2"]),
]
DOWN_TO_ONE: list[Start] = [(3, ["zero.stage=1"]), (1, ["zero.stage=0"]), (2, ["zero.stage=2"])]


@pytest.mark.parametrize(
    ("starts", "settings", "tolerance"),
    [
        (RANKS, {}, 1e-5),
        (STAGES, {}, 1e-5),
        (DOWN_TO_ONE, {"global_batch_size": 12}, 1e-5),
        (RANKS, {"precision": "bf16"}, 3e-4),  # another T rounds otherwise
    ],
    ids=["ranks", "stages", "down-to-one", "bf16"],
)
def test_goes_on_in_another_layout(
    starts: list[Start], settings: dict[str, Any], tolerance: float, tmp_path: Path
) -> None:
    checkpoint = {"every_steps": 100, "keep_last": 9}
    config = make_run(tmp_path, total_steps=TOTAL, checkpoint=checkpoint, **settings)
    undisturbed, moved = tmp_path / "undisturbed", tmp_path / "moved"
    start(starts[0], config, undisturbed, range(1, TOTAL + 1))
    for one, begin, end in zip(starts, (0, *STOPS), (*STOPS, TOTAL), strict=True):
        start(one, config, moved, range(begin + 1, end + 1))

    assert samples(moved) == samples(undisturbed)
    expected, found = (read_lines(folder / "metrics.jsonl") for folder in (undisturbed, moved))
    assert [entry["step"] for entry in found] == [*range(1, TOTAL + 1)]
    for name in ("num_tokens", "learning_rate"):
        assert [entry[name] for entry in found] == [entry[name] for entry in expected]
    largest = {
        name: max(abs(a[name] - b[name]) for a, b in zip(found, expected, strict=True))
        for name in ("loss", "t", "gradient_norm")
    }
    moved_by = expected[-1]["loss"] - expected[0]["loss"]  # upwards: t moves the target
    print(f"losses differ by {largest['loss']:.1e} at most, having moved by {moved_by:.2f}")
    assert abs(moved_by) > 0.1
    assert largest["loss"] < tolerance
    assert largest["t"] < tolerance
    left = sorted(path.name for path in (moved / "checkpoints").iterdir())
    assert left == [f"step-{step:08d}" for step in (*STOPS, TOTAL)]


def start(one: Start, config: Path, run_dir: Path, steps: range) -> None:
    """Train for those steps."""
    world_size, overrides = one
    cheap = ["evaluation=null", "data.num_workers=0"]
    arguments = [str(config), f"run_dir={run_dir}", *cheap, *overrides]
    params = {"arguments": arguments, "run_dir": run_dir, "steps": steps}
    run_on_ranks(world_size, __name__, "train_for", params)


def train_for(arguments: list[str], run_dir: Path, steps: range) -> None:
    """On each rank: note the samples of each step; at the last one, do what Slurm does."""
    read, numbers = TrainingLoader.next_step, iter(steps)

    def next_step(loader: TrainingLoader) -> list[MicroBatch]:
        batches, step = read(loader), next(numbers)
        keys = [key for batch in batches for key in batch.keys.tolist()]
        with (run_dir / f"samples-{step:02d}").open("a") as file:
            file.writelines(json.dumps(key) + "\n" for key in keys)
        if step == steps[-1] < TOTAL:
            signal.raise_signal(signal.SIGUSR1)
        return batches

    TrainingLoader.next_step = next_step  # type: ignore[method-assign]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments) == (0 if steps[-1] == TOTAL else START_AGAIN)


def samples(run_dir: Path) -> list[list[str]]:
    """Of each step, in any order."""
    files = sorted(run_dir.glob("samples-*"))
    assert len(files) == TOTAL
    return [sorted(file.read_text().splitlines()) for file in files]

"""Training goes on while a checkpoint is written, and nothing of it gets into the checkpoint."""

import itertools
import os
import random
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from taidscale.checkpoint.folder import finish_replacements, finished_checkpoints, step_of
from taidscale.checkpoint.manifest import damage, read_facts
from taidscale.checkpoint.store import CheckpointError, Put
from taidscale.engine.student import student_state_dict
from tests.checkpoint.stores import FACTS, flip, names, open_store, save, this_grid, visible, writer
from tests.ranks import on_ranks, run_on_ranks, run_rank
from tests.runs import make_run, read_lines

ROOT = Path(__file__).parents[2]


@on_ranks(2)
def test_one_after_the_other(tmp_path: Path) -> None:
    grid = this_grid()
    store = open_store(tmp_path, grid)
    assert (store.pending, store.busy) == (False, False)
    weights = torch.full((100,), 1.0)

    def write(folder: Path, put: Put) -> None:
        put(weights, folder / f"{grid.rank}.pt")

    for step in (1, 2):
        store.begin(step, write, FACTS, num_bytes=100)
        assert (store.pending, 0) == (True, 0)
        weights += 1  # the next step
        assert visible(tmp_path)[: step - 1] == ["step-00000001"][: step - 1]
    store.publish()
    assert (store.pending, store.busy) == (False, False)
    store.publish()  # there is nothing to do
    for step in (1, 2):
        saved = torch.load(tmp_path / f"step-0000000{step}" / f"{1 - grid.rank}.pt")
        assert torch.equal(saved, torch.full((100,), float(step)))


@on_ranks(2)
def test_a_slow_rank_whose_disk_then_fails(tmp_path: Path) -> None:
    """A pipe that nobody reads is a disk that takes its time; and it cannot be flushed."""
    grid = this_grid()
    store = open_store(tmp_path, grid)
    save(store, grid, 1)

    def write(folder: Path, put: Put) -> None:
        if grid.rank == 1:
            os.mkfifo(folder / "1.pt")
        put(torch.ones(100), folder / f"{grid.rank}.pt")

    store.begin(2, write, FACTS, num_bytes=100)
    deadline = time.monotonic() + 6000
    while grid.rank == 0 and store.busy:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert grid.gather_floats(store.busy) == [[0.0], [1.0]]
    assert (store.pending, store.busy) == (True, grid.rank == 1)
    assert names(tmp_path) == ["step-00000001", "step-00000002.partial"]
    if grid.rank == 1:
        assert (tmp_path / "step-00000002.partial" / "1.pt").read_bytes()
    says = r"could not write checkpoint step-00000002: .*1\.pt: .*Invalid arg.*step-00000001"
    with pytest.raises(CheckpointError, match=says):
        store.publish()
    assert (store.pending, store.busy) == (False, False)
    assert names(tmp_path) == ["step-00000001"]
    save(store, grid, 3)
    assert store.last == tmp_path / "step-00000003"


def test_a_process_that_ends_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    """Its thread is stuck in the pipe for ever."""
    script = (
        "import sys\n"
        "from tests.ranks import run_rank\n"
        "folder, module = sys.argv[1:]\n"
        "run_rank(0, 1, f'file://{folder}/meet', module, 'is_stuck', {'folder': folder}, {})\n"
        "print('ended')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(tmp_path), __name__]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ended\n"
    run_on_ranks(1, __name__, "goes_on", {"folder": str(tmp_path)})


def is_stuck(folder: str) -> None:
    store = open_store(Path(folder) / "checkpoints", this_grid())

    def write(partial: Path, put: Put) -> None:
        os.mkfifo(partial / "a.pt")
        put("state", partial / "a.pt")

    store.begin(1, write, FACTS, num_bytes=100)
    assert store.busy


def goes_on(folder: str) -> None:
    checkpoints = Path(folder) / "checkpoints"
    grid = this_grid()
    store = open_store(checkpoints, grid)
    assert names(checkpoints) == ["step-00000001.partial"]
    assert store.latest() is None
    save(store, grid, 1)
    assert names(checkpoints) == ["step-00000001"]


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """What has a checkpoint's name is whole, and the newest never becomes an older one."""
    chance = random.Random(0)
    forkserver = get_context("forkserver")
    newest, folder = 0, tmp_path / "checkpoints"
    for start in range(12):
        rendezvous = f"file://{tmp_path}/rendezvous-{start}"
        args: Any = (0, 1, rendezvous, __name__, "saves_for_ever", {"folder": folder}, {})
        process = forkserver.Process(target=run_rank, args=args)
        process.start()
        wanted = newest + chance.randint(1, 6)
        deadline = time.monotonic() + 600
        while not (found := finished_checkpoints(folder)) or step_of(found[-1]) < wanted:
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        process.kill()
        process.join()
        finish_replacements(folder)  # as the next start does
        found = finished_checkpoints(folder)
        assert all(damage(checkpoint, hashes=True) is None for checkpoint in found)
        assert 2 <= len(found) <= 3 or newest == 0
        assert step_of(found[-1]) >= wanted
        newest = step_of(found[-1])


def saves_for_ever(folder: Path) -> None:
    """On from where the last one ended; each checkpoint is replaced by another of its step."""
    grid = this_grid()
    store = open_store(folder, grid)
    last = store.latest()
    assert not list(folder.glob("*.partial"))
    for number in itertools.count(0 if last is None else 2 * step_of(last)):
        store.begin(number // 2 + 1, writer(grid, "state " * 10_000), FACTS, num_bytes=100)


def test_runs_that_write_either_way(tmp_path: Path) -> None:
    """The same files to the last bit, though the next steps came in between."""
    config = str(make_run(tmp_path, evaluation=None, precision="bf16", total_steps=6))
    folders = {way: tmp_path / way for way in ("blocking", "background")}
    for way, folder in folders.items():
        arguments = [config, f"run_dir={folder}", f"checkpoint.write={way}"]
        arguments += ["checkpoint.every_steps=1", "checkpoint.keep_last=9"]
        run_on_ranks(2, "tests.runs", "train_quietly", {"arguments": arguments})
    for step in range(1, 7):
        blocking, background = (
            read_facts(folder / "checkpoints" / f"step-{step:08d}")["files"]
            for folder in folders.values()
        )
        assert len(blocking) == 6
        # Both are written by every rank alike; what differs is the path of the run's folder.
        assert blocking == background, step


def test_a_damaged_checkpoint_costs_no_more_than_its_steps(tmp_path: Path) -> None:
    config = make_run(tmp_path, evaluation=None, checkpoint={"every_steps": 4, "keep_last": 2})
    arguments = {"arguments": [str(config)]}
    run_on_ranks(2, "tests.runs", "train_quietly", arguments)
    checkpoints, metrics = tmp_path / "run" / "checkpoints", tmp_path / "run" / "metrics.jsonl"
    expected = read_lines(metrics)
    newest = checkpoints / "step-00000010"
    weights = student_state_dict(newest)
    flip(newest / "zero_pp_rank_1_mp_rank_00_optim_states.pt")
    run_on_ranks(2, "tests.runs", "train_quietly", arguments)
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "step-00000008",
        "step-00000010",
        "step-00000010.damaged",
    ]
    assert read_lines(metrics) == expected
    again = student_state_dict(newest)
    assert all(torch.equal(again[name], weights[name]) for name in weights | again)

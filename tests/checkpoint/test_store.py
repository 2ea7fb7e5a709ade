"""What survives crashes, full disks and lost files, and what is never taken for a checkpoint."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from taidscale.checkpoint.manifest import read_facts
from tests.checkpoint.stores import FACTS, names, open_store, save, this_grid, visible, writer
from tests.ranks import run_on_ranks


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("write", ["blocking", "background"])
@pytest.mark.parametrize(
    "check",
    [
        "saves_and_loads",
        "keeps_the_last",
        "keeps_every_so_many_steps",
        "ignores_and_removes_what_is_unfinished",
        "replaces_one_of_the_same_step",
        "undoes_half_a_replacement",
    ],
)
def test_store(tmp_path: Path, world_size: int, write: str, check: str) -> None:
    folder = tmp_path / "deep" / "checkpoints"
    run_on_ranks(world_size, __name__, check, {"folder": folder, "write": write})


def saves_and_loads(folder: Path, write: str) -> None:
    grid = this_grid()
    store = open_store(folder, grid, write=write)
    assert store.latest() is None
    save(store, grid, 3)
    saved = folder / "step-00000003"
    assert store.last == store.latest() == saved
    assert names(folder) == ["step-00000003"]
    for rank in range(grid.world_size):
        assert torch.load(saved / "shards" / f"rank-{rank}.pt") == f"step 3 of {rank}"
    facts = read_facts(saved)
    assert {name: facts[name] for name in FACTS} == FACTS
    assert (facts["step"], facts["world_size"]) == (3, grid.world_size)
    ranks = {f"shards/rank-{rank}.pt": rank for rank in range(grid.world_size)} | {"model.pt": 0}
    assert {name: entry["rank"] for name, entry in facts["files"].items()} == ranks
    again = open_store(folder, grid)
    assert again.last is None
    assert again.latest() == again.last == saved


def keeps_the_last(folder: Path, write: str) -> None:
    grid = this_grid()
    store = open_store(folder, grid, write=write)
    save(store, grid, 1)
    assert names(folder) == ["step-00000001"]
    save(store, grid, 2, 3)
    assert visible(folder) == ["step-00000002", "step-00000003"]
    save(store, grid, 10)  # by number, not by the order of "10" and "3"
    assert visible(folder) == ["step-00000003", "step-00000010"]
    latest = store.latest()
    assert latest is not None
    assert torch.load(latest / "model.pt") == "step 10"
    dist.barrier()
    save(open_store(folder, grid, keep_last=1), grid, 123_456_789)
    assert visible(folder) == ["step-123456789"]


def keeps_every_so_many_steps(folder: Path, write: str) -> None:
    grid = this_grid()
    store = open_store(folder, grid, write=write, keep_last=2, keep_every_steps=4)
    save(store, grid, *range(1, 12))
    assert visible(folder) == [f"step-{step:08d}" for step in (4, 8, 10, 11)]


def ignores_and_removes_what_is_unfinished(folder: Path, write: str) -> None:
    grid = this_grid()
    store = open_store(folder, grid, write=write)
    save(store, grid, 5)
    if grid.is_first:  # as if the run had been killed just before the rename
        shutil.copytree(folder / "step-00000005", folder / "step-00000009.partial")
        shutil.copytree(folder / "step-00000005", folder / "step-00000001.old.partial")
        (folder / "step-00000007.partial").mkdir()
    dist.barrier()
    assert store.latest() == folder / "step-00000005"
    dist.barrier()
    save(store, grid, 6)
    assert names(folder) == ["step-00000005", "step-00000006"]
    assert store.latest() == folder / "step-00000006"


def replaces_one_of_the_same_step(folder: Path, write: str) -> None:
    """After a roll-back the run comes by a step again, with other weights."""
    grid = this_grid()
    store = open_store(folder, grid, write=write)
    save(store, grid, 1, 2)
    store.begin(2, writer(grid, "again"), FACTS, num_bytes=100)
    store.publish()
    assert store.latest() == folder / "step-00000002"
    assert torch.load(folder / "step-00000002" / "model.pt") == "again"
    assert visible(folder) == ["step-00000001", "step-00000002"]


def undoes_half_a_replacement(folder: Path, write: str) -> None:
    """The process died between the two renames, and after them."""
    grid = this_grid()
    store = open_store(folder, grid, write=write)
    save(store, grid, 1, 2)
    if grid.is_first:
        (folder / "step-00000002").rename(folder / "step-00000002.replaced")
        shutil.copytree(folder / "step-00000001", folder / "step-00000001.replaced")
    dist.barrier()
    assert open_store(folder, grid).latest() == folder / "step-00000002"
    assert names(folder) == ["step-00000001", "step-00000002"]

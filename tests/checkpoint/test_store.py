"""What survives crashes, full disks and lost files, and what is never taken for a checkpoint."""

import errno
import json
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from taidscale.checkpoint.store import CheckpointError, CheckpointStore
from taidscale.parallel.grid import Grid, make_grid
from tests.ranks import on_ranks, run_on_ranks

FACTS: dict[str, Any] = {"progress": {"step": 3, "t": 0.1 + 0.2}, "text": "語"}


def this_grid() -> Grid:
    return make_grid(1, torch.device("cpu"))


def writer(grid: Grid, content: str = "state") -> Callable[[Path], None]:
    """Writes a file per rank, in a subfolder, and one of the first rank."""

    def write(folder: Path) -> None:
        (folder / "shards").mkdir(exist_ok=True)
        (folder / "shards" / f"rank-{grid.rank}.txt").write_text(f"{content} of {grid.rank}")
        if grid.is_first:
            (folder / "model.txt").write_text(content)

    return write


def save(store: CheckpointStore, grid: Grid, *steps: int) -> None:
    for step in steps:
        store.save(step, writer(grid, f"step {step}"), {**FACTS, "step": step}, num_bytes=100)
    dist.barrier()


def names(folder: Path) -> list[str]:
    dist.barrier()
    found = sorted(path.name for path in folder.iterdir())
    dist.barrier()
    return found


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(
    "check",
    [
        "saves_and_loads",
        "keeps_the_last",
        "ignores_and_removes_what_is_unfinished",
        "skips_damaged_ones",
        "looks_at_the_free_space",
        "replaces_one_of_the_same_step",
    ],
)
def test_store(tmp_path: Path, world_size: int, check: str) -> None:
    run_on_ranks(world_size, __name__, check, {"folder": tmp_path / "deep" / "checkpoints"})


def saves_and_loads(folder: Path) -> None:
    grid = this_grid()
    store = CheckpointStore(folder, grid, keep_last=2)
    assert store.latest() is None
    saved = store.save(3, writer(grid), FACTS, num_bytes=100)
    dist.barrier()
    assert saved == store.latest() == folder / "step-00000003"
    assert names(folder) == ["step-00000003"]
    for rank in range(grid.world_size):
        assert (saved / "shards" / f"rank-{rank}.txt").read_text() == f"state of {rank}"
    facts = store.load_facts(saved)
    assert {name: facts[name] for name in FACTS} == FACTS
    manifest = json.loads((saved / "manifest.json").read_text())
    assert manifest["files"]["model.txt"] == len("state")
    assert len(manifest["files"]) == grid.world_size + 1


def keeps_the_last(folder: Path) -> None:
    grid = this_grid()
    store = CheckpointStore(folder, grid, keep_last=2)
    save(store, grid, 1)
    assert names(folder) == ["step-00000001"]
    save(store, grid, 2, 3)
    assert names(folder) == ["step-00000002", "step-00000003"]
    save(store, grid, 10)  # by number, not by the order of "10" and "3"
    assert names(folder) == ["step-00000003", "step-00000010"]
    latest = store.latest()
    assert latest is not None
    assert (latest / "model.txt").read_text() == "step 10"
    dist.barrier()
    save(CheckpointStore(folder, grid, keep_last=1), grid, 11)
    assert names(folder) == ["step-00000011"]


def ignores_and_removes_what_is_unfinished(folder: Path) -> None:
    grid = this_grid()
    store = CheckpointStore(folder, grid, keep_last=2)
    save(store, grid, 5)
    if grid.is_first:  # as if the run had been killed just before the rename
        unfinished = folder / "step-00000009.partial"
        shutil.copytree(folder / "step-00000005", unfinished)
        (folder / "step-00000007.partial").mkdir()
    dist.barrier()
    assert store.latest() == folder / "step-00000005"
    dist.barrier()
    save(store, grid, 6)
    assert names(folder) == ["step-00000005", "step-00000006"]
    assert store.latest() == folder / "step-00000006"


def skips_damaged_ones(folder: Path) -> None:
    grid = this_grid()
    store = CheckpointStore(folder, grid, keep_last=9)
    save(store, grid, 1, 2, 3, 4, 5)
    if grid.is_first:
        (folder / "step-00000005" / "manifest.json").unlink()
        (folder / "step-00000004" / "shards" / "rank-0.txt").unlink()
        (folder / "step-00000003" / "model.txt").write_text("step")
        (folder / "step-00000002" / "manifest.json").write_text('{"files": {')
    dist.barrier()
    said = Lines()
    log = logging.getLogger("taidscale.checkpoint.store")
    log.addHandler(said)
    assert store.latest() == folder / "step-00000001"
    log.removeHandler(said)
    reasons = [
        "manifest.json is missing",
        "shards/rank-0.txt is missing",
        "model.txt has 4 bytes instead of 6",
        "manifest.json is missing or unreadable",
    ]
    assert len(said.lines) == (4 if grid.is_first else 0)  # it looks for all
    for step, line, reason in zip((5, 4, 3, 2), said.lines, reasons, strict=grid.is_first):
        assert f"step-0000000{step} is damaged" in line
        assert reason in line
    dist.barrier()
    if grid.is_first:
        (folder / "step-00000001" / "model.txt").unlink()
    dist.barrier()
    assert store.latest() is None


class Lines(logging.Handler):
    """Keeps warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def looks_at_the_free_space(folder: Path) -> None:
    grid = this_grid()
    store = CheckpointStore(folder, grid, keep_last=1)

    def must_not_write(_: Path) -> None:
        raise AssertionError("it was known that there is no space")

    with pytest.raises(CheckpointError, match=r"needs .* free.* none before it"):
        store.save(1, must_not_write, FACTS, num_bytes=10**18)
    assert names(folder) == []
    save(store, grid, 2)
    with pytest.raises(CheckpointError, match=r"last good one is .*step-00000002"):
        store.save(3, must_not_write, FACTS, num_bytes=10**18)
    assert names(folder) == ["step-00000002"]


def replaces_one_of_the_same_step(folder: Path) -> None:
    """A run that goes back to an older checkpoint comes by the damaged one again."""
    grid = this_grid()
    store = CheckpointStore(folder, grid, keep_last=2)
    save(store, grid, 1, 2)
    if grid.is_first:
        (folder / "step-00000002" / "model.txt").unlink()
    dist.barrier()
    assert store.latest() == folder / "step-00000001"
    dist.barrier()
    save(store, grid, 2)
    assert store.latest() == folder / "step-00000002"
    assert names(folder) == ["step-00000001", "step-00000002"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@on_ranks(2)
def test_one_rank_cannot_write(tmp_path: Path) -> None:
    grid = this_grid()
    store = CheckpointStore(tmp_path, grid, keep_last=1)
    save(store, grid, 1)
    before = contents(tmp_path)
    write = writer(grid)

    def write_or_fail(folder: Path) -> None:
        write(folder)
        if grid.rank == 1:
            raise OSError(errno.EIO, "Input/output error")

    wanted = r"could not write checkpoint step-00000002: .*Input/output error.*step-00000001"
    with pytest.raises(CheckpointError, match=wanted):
        store.save(2, write_or_fail, FACTS, num_bytes=100)
    assert names(tmp_path) == ["step-00000001"]
    assert contents(tmp_path) == before
    assert store.latest() == tmp_path / "step-00000001"
    dist.barrier()
    save(store, grid, 2)  # the next attempt works
    assert names(tmp_path) == ["step-00000002"]


@on_ranks(2)
def test_a_rank_that_does_not_see_the_folder(tmp_path: Path) -> None:
    """Each rank has its own disk, as with a run_dir that the nodes do not share."""
    grid = this_grid()
    store = CheckpointStore(tmp_path / str(grid.rank), grid, keep_last=1)
    with pytest.raises(CheckpointError, match=r"rank 1 does not see .* all nodes share"):
        store.save(1, writer(grid), FACTS, num_bytes=100)
    assert names(tmp_path / "0") == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        pytest.skip(f"cannot mount a file system here: {reason.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("world_size", [1, 2])
def test_full_disk(tiny_disk: Path, world_size: int) -> None:
    run_on_ranks(world_size, __name__, "fills_the_disk", {"folder": tiny_disk})


def fills_the_disk(folder: Path) -> None:
    """The estimate says that it fits; the disk says otherwise."""
    grid = this_grid()
    store = CheckpointStore(folder, grid, keep_last=1)
    save(store, grid, 1)
    before = contents(folder)
    write = writer(grid)

    def write_too_much(partial: Path) -> None:
        write(partial)
        if grid.rank == grid.world_size - 1:
            (partial / "large").write_bytes(bytes(2**21))

    with pytest.raises(CheckpointError, match=r"No space left on device.*step-00000001"):
        store.save(2, write_too_much, FACTS, num_bytes=100)
    assert names(folder) == ["step-00000001"]
    assert contents(folder) == before
    save(store, grid, 3)
    assert names(folder) == ["step-00000003"]


def test_another_number_of_ranks(tmp_path: Path) -> None:
    run_on_ranks(2, __name__, "saves_one", {"folder": tmp_path})
    run_on_ranks(1, __name__, "refuses_it", {"folder": tmp_path})


def saves_one(folder: Path) -> None:
    grid = this_grid()
    save(CheckpointStore(folder, grid, keep_last=1), grid, 1)


def refuses_it(folder: Path) -> None:
    store = CheckpointStore(folder, this_grid(), keep_last=1)
    latest = store.latest()
    assert latest is not None
    with pytest.raises(CheckpointError, match=r"written by 2 ranks, this run has 1; .* 2 ranks"):
        store.load_facts(latest)

"""Full disks, lost and damaged files, bad nodes: what is said, and that nothing good is lost."""

import errno
import logging
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from taidscale.checkpoint.folder import latest_checkpoint
from taidscale.checkpoint.manifest import damage
from taidscale.checkpoint.store import CheckpointError, Put
from tests.checkpoint.stores import FACTS, flip, names, open_store, save, this_grid, visible, writer
from tests.ranks import on_ranks, run_on_ranks
from tests.small_disk import small_disk


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("write", ["blocking", "background"])
@pytest.mark.parametrize(
    "check",
    [
        "passes_over_damaged_ones",
        "refuses_to_start_anew_where_none_is_whole",
        "looks_at_the_free_space",
    ],
)
def test_store(tmp_path: Path, world_size: int, write: str, check: str) -> None:
    folder = tmp_path / "deep" / "checkpoints"
    run_on_ranks(world_size, __name__, check, {"folder": folder, "write": write})


def passes_over_damaged_ones(folder: Path, write: str) -> None:
    grid = this_grid()
    store = open_store(folder, grid, write=write, keep_last=9)
    save(store, grid, 1, 2, 3, 4, 5, 6)
    if grid.is_first:
        (folder / "step-00000006" / "manifest.json").unlink()
        (folder / "step-00000005" / "shards" / "rank-0.pt").unlink()
        (folder / "step-00000004" / "model.pt").write_text("step")
        (folder / "step-00000003" / "manifest.json").write_text('{"files": {')
        flip(folder / "step-00000002" / "shards" / f"rank-{grid.world_size - 1}.pt")
    dist.barrier()
    said = Lines()
    log = logging.getLogger("taidscale.checkpoint.store")
    log.addHandler(said)
    assert store.latest() == store.last == folder / "step-00000001"
    log.removeHandler(said)
    reasons = [
        "manifest.json is missing",
        "shards/rank-0.pt is missing",
        "model.pt has 4 bytes instead of ",
        "manifest.json is missing or unreadable",
        f"shards/rank-{grid.world_size - 1}.pt has SHA-256 ",
    ]
    for step, line, reason in zip((6, 5, 4, 3, 2), said.lines, reasons, strict=True):
        assert f"step-0000000{step} is damaged" in line
        assert reason in line
    damaged = [f"step-0000000{step}.damaged" for step in range(2, 7)]
    assert names(folder) == ["step-00000001", *damaged]
    save(store, grid, 2, 3)  # the run comes by these steps again
    assert store.latest() == folder / "step-00000003"
    assert [name for name in names(folder) if name in damaged] == damaged
    if grid.is_first:
        flip(folder / "step-00000003" / "model.pt")
    dist.barrier()
    assert store.latest() == folder / "step-00000002"
    assert [name for name in names(folder) if "3" in name] == ["step-00000003.damaged"]


class Lines(logging.Handler):
    """Keeps warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def refuses_to_start_anew_where_none_is_whole(folder: Path, write: str) -> None:
    grid = this_grid()
    store = open_store(folder, grid, write=write)
    save(store, grid, 1, 2)
    if grid.is_first:
        flip(folder / "step-00000001" / "model.pt")
        (folder / "step-00000002" / "model.pt").unlink()
    dist.barrier()
    says = r"none of .* is whole \(step-00000002: model.pt is missing; step-00000001: .*SHA"
    for _ in range(2):  # at every start
        with pytest.raises(CheckpointError, match=says):
            open_store(folder, grid).latest()
        assert visible(folder) == ["step-00000001", "step-00000002"]


def looks_at_the_free_space(folder: Path, write: str) -> None:
    grid = this_grid()
    store = open_store(folder, grid, write=write)

    def must_not_write(_: Path, __: Put) -> None:
        raise AssertionError("it was known that there is no space")

    with pytest.raises(CheckpointError, match=r"needs .* free.* none before it"):
        store.begin(1, must_not_write, FACTS, num_bytes=10**18)
    assert names(folder) == []
    save(store, grid, 2)
    with pytest.raises(CheckpointError, match=r"last good one is .*step-00000002"):
        store.begin(3, must_not_write, FACTS, num_bytes=10**18)
    assert names(folder) == ["step-00000002"]


@on_ranks(2)
def test_a_rank_that_reads_something_else(tmp_path: Path) -> None:
    """A bad node must not make the others give up a good checkpoint."""
    grid = this_grid()
    store = open_store(tmp_path / "0", grid)
    save(store, grid, 1, 2)
    if grid.rank == 1:
        shutil.copytree(tmp_path / "0", tmp_path / "1")
        flip(tmp_path / "1" / "step-00000002" / "shards" / "rank-1.pt")
    dist.barrier()
    says = rf"whole as rank 0 reads it, but rank 1 on {socket.gethostname()} says: .*SHA-256"
    own = open_store(tmp_path / str(grid.rank), grid)
    with pytest.raises(CheckpointError, match=says):
        own.latest()
    assert names(tmp_path / "0") == ["step-00000001", "step-00000002"]


def test_looking_without_the_ranks(tmp_path: Path) -> None:
    run_on_ranks(1, __name__, "saves_three", {"folder": tmp_path})
    newest = tmp_path / "step-00000003"
    assert latest_checkpoint(tmp_path) == latest_checkpoint(tmp_path, hashes=True) == newest
    flip(newest / "model.pt")
    assert latest_checkpoint(tmp_path) == newest
    assert latest_checkpoint(tmp_path, hashes=True) == tmp_path / "step-00000002"
    (newest / "model.pt").unlink()
    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000002"


def saves_three(folder: Path) -> None:
    grid = this_grid()
    save(open_store(folder, grid, keep_last=3), grid, 1, 2, 3)


@on_ranks(2)
def test_a_rank_that_does_not_see_the_folder(tmp_path: Path) -> None:
    """Each rank has its own disk, as with a run_dir that the nodes do not share."""
    grid = this_grid()
    store = open_store(tmp_path / str(grid.rank), grid)
    with pytest.raises(CheckpointError, match=r"rank 1 does not see .* all nodes share"):
        store.begin(1, writer(grid), FACTS, num_bytes=100)
    assert names(tmp_path / "0") == []


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@on_ranks(2)
def test_one_rank_cannot_write(tmp_path: Path) -> None:
    grid = this_grid()
    store = open_store(tmp_path, grid, keep_last=1)
    save(store, grid, 1)
    before = contents(tmp_path)
    write = writer(grid)

    def write_or_fail(folder: Path, put: Put) -> None:
        write(folder, put)
        if grid.rank == 1:
            raise OSError(errno.EIO, "Input/output error")

    wanted = r"could not write checkpoint step-00000002: .*Input/output error.*step-00000001"
    with pytest.raises(CheckpointError, match=wanted):
        store.begin(2, write_or_fail, FACTS, num_bytes=100)
    assert not store.pending
    assert names(tmp_path) == ["step-00000001"]
    assert contents(tmp_path) == before
    assert store.latest() == tmp_path / "step-00000001"
    dist.barrier()
    save(store, grid, 2)  # the next attempt works
    assert visible(tmp_path) == ["step-00000002"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "1m") as folder:
        yield folder


@pytest.mark.parametrize(("world_size", "write"), [(1, "blocking"), (2, "background")])
def test_full_disk(tiny_disk: Path, world_size: int, write: str) -> None:
    run_on_ranks(world_size, __name__, "fills_the_disk", {"folder": tiny_disk, "write": write})


def fills_the_disk(folder: Path, write: str) -> None:
    """The estimate says that it fits; the disk says otherwise."""
    grid = this_grid()
    store = open_store(folder, grid, write=write, keep_last=1)
    save(store, grid, 1)
    before = contents(folder)
    small = writer(grid)

    def write_too_much(partial: Path, put: Put) -> None:
        small(partial, put)
        if grid.rank == grid.world_size - 1:
            put(torch.zeros(2**19), partial / "large.pt")

    def try_it() -> None:
        store.begin(2, write_too_much, FACTS, num_bytes=100)
        store.publish()

    with pytest.raises(CheckpointError, match=r"No space left on device.*step-00000001"):
        try_it()
    assert names(folder) == ["step-00000001"]
    assert contents(folder) == before
    assert damage(folder / "step-00000001", hashes=True) is None
    save(store, grid, 3)
    assert visible(folder) == ["step-00000003"]

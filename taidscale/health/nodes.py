"""What the nodes of a cluster can do, measured in seconds by all ranks together.

Nothing here raises because of a sick node: what is wrong with one is part of what it reports, so
that no other one waits for it.
"""

import os
import shutil
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from taidscale.health.devices import (
    available_memory,
    device_name,
    device_problems,
    installed_versions,
    matrix_flops,
    seconds_of,
)
from taidscale.parallel.grid import Grid

CLOCK_ROUNDS = 5
TIMED_RUNS = 3
SEE_FILE_SECONDS = 10.0
"""Network file systems may show a new file late."""


@dataclass(frozen=True)
class Sizes:
    """How much is computed, sent and written."""

    matrix: int
    """Rows and columns."""
    message_bytes: int
    """Of an all-reduce."""
    file_bytes: int

    @classmethod
    def for_device(cls, device: torch.device) -> "Sizes":
        """Some hundredths of a second each."""
        if device.type == "cuda":
            return cls(8192, 2**28, 2**30)
        return cls(512, 2**22, 2**25)


@dataclass
class RankReport:
    """What one rank found; those of its node's file system only on the first of the node."""

    host: str
    node: int
    """The lowest rank of its node."""
    versions: dict[str, str]
    device: str
    memory_bytes: int
    """Of the host, available."""
    problems: list[str] = field(default_factory=list)
    """What is wrong here, whatever the others report, with the remedy."""
    flops: float | None = None
    """Floating-point operations per second of a matrix product."""
    bytes_inside: float | None = None
    """Per second: bus bandwidth of an all-reduce among the ranks of the node; None for one rank."""
    bytes_across: float | None = None
    """The same with the ranks of one other node, the better of two; None on one node."""
    clock_offset: float = 0.0
    """Seconds before the median of all clocks."""
    free_bytes: int | None = None
    bytes_written: float | None = None
    """Per second, all nodes at once, flushed to the disk."""


def look_at_nodes(
    grid: Grid, local_rank: int, folder: Path, sizes: Sizes | None = None
) -> list[RankReport]:
    """Every rank's report, in rank order, on every rank. All ranks call it together.

    Args:
        grid: all ranks; those of a node follow each other.
        local_rank: place of this rank in its node.
        folder: where checkpoints go, on a file system that all nodes share.
        sizes: of what is measured.

    Cost: all-reduces of `sizes.message_bytes`, some short gathers, and up to 3 groups per node.
    """
    sizes = sizes or Sizes.for_device(grid.device)
    node = grid.rank - local_rank
    own = RankReport(
        host=socket.gethostname(),
        node=node,
        versions=installed_versions(grid.device),
        device=device_name(grid.device),
        memory_bytes=available_memory(),
    )
    own.problems += device_problems(grid.device)
    try:
        own.flops = matrix_flops(grid.device, sizes.matrix)
    except (ArithmeticError, RuntimeError) as error:
        own.problems.append(f"{own.device} {local_rank} does not compute right: {error}")
    first_ranks = sorted(set(grid.gather(node)))
    members = [
        list(range(first, end))
        for first, end in zip(first_ranks, [*first_ranks[1:], grid.world_size], strict=True)
    ]
    own.bytes_inside = _bandwidth_among(members, grid, sizes.message_bytes)
    for pairs in pairings(len(members)):
        groups = [members[one] + members[other] for one, other in pairs]
        found = _bandwidth_among(groups, grid, sizes.message_bytes)
        if found is not None:
            own.bytes_across = max(found, own.bytes_across or 0.0)
    own.clock_offset = _clock_offset(grid)
    _look_at_folder(own, grid, folder, sizes.file_bytes, is_first=local_rank == 0)
    return grid.gather(own)


def pairings(num_nodes: int) -> list[list[tuple[int, int]]]:
    """Rounds of pairs of neighbours in a ring, in which each node has up to two partners.

    >>> pairings(4)
    [[(0, 1), (2, 3)], [(1, 2), (3, 0)]]
    """
    ring = [(node, (node + 1) % num_nodes) for node in range(num_nodes)]
    if num_nodes < 3:
        return [ring[: num_nodes - 1]]
    even, odd, last = ring[0 : num_nodes - 1 : 2], ring[1::2], ring[num_nodes - 1 :]
    return [even, odd, last] if num_nodes % 2 else [even, odd]


def _bandwidth_among(groups: list[list[int]], grid: Grid, num_bytes: int) -> float | None:
    """Bytes per second on the bus, of an all-reduce in the group of this rank; all at once.

    The time is that of the slowest rank. 2(n-1)/n of the bytes leave each of n ranks.

    Cost: one group for each of `groups`; a few all-reduces of `num_bytes`.
    """
    made = [(ranks, dist.new_group(ranks)) for ranks in groups if len(ranks) > 1]
    own, size = next(((g, len(ranks)) for ranks, g in made if grid.rank in ranks), (None, 1))
    if not isinstance(own, dist.ProcessGroup):
        return None
    message = torch.ones(num_bytes // 4, device=grid.device)
    dist.all_reduce(message, group=own)  # connects
    best = min(
        seconds_of(lambda: dist.all_reduce(message, group=own), grid.device)
        for _ in range(TIMED_RUNS)
    )
    seconds = torch.tensor(best, dtype=torch.float64, device=grid.device)
    dist.all_reduce(seconds, dist.ReduceOp.MAX, group=own)
    dist.destroy_process_group(own)
    return 2 * (size - 1) / size * num_bytes / seconds.item()


def _clock_offset(grid: Grid) -> float:
    """Seconds by which the clock of this rank is before the median of all.

    Read right after a barrier; of some rounds the one with the least spread counts, since a
    barrier lets go of the ranks a little apart.

    Cost: a barrier and a gather of 8 bytes a rank, some times.
    """
    rounds = []
    for _ in range(CLOCK_ROUNDS):
        dist.barrier()
        rounds.append([seconds for (seconds,) in grid.gather_floats(time.time())])
    clocks = min(rounds, key=lambda seconds: max(seconds) - min(seconds))
    return clocks[grid.rank] - sorted(clocks)[len(clocks) // 2]


def _look_at_folder(
    own: RankReport, grid: Grid, folder: Path, num_bytes: int, *, is_first: bool
) -> None:
    """Whether every node sees the same folder, its free space, and how fast it takes bytes.

    Cost: a broadcast and a gather of a path, and a barrier.
    """
    scratch: Path | None = None
    if grid.is_first:
        scratch = folder / f".check-nodes-{os.getpid()}-{time.time_ns()}"
        try:
            scratch.mkdir(parents=True)
        except OSError as error:
            own.problems.append(f"cannot write to {folder}: {error}")
            scratch = None
    scratch = grid.as_on_first(scratch)
    if scratch is None:
        return
    file = scratch / f"{own.host}-{own.node}"
    if is_first:
        if _appears(scratch):
            _write(own, folder, file, num_bytes)
        else:
            own.problems.append(
                f"does not see what the first node creates in {folder}: run_dir must lie on a "
                "file system that all nodes share"
            )
    files = [path for path in grid.gather(file if is_first and own.bytes_written else None) if path]
    if grid.is_first:
        unseen = [path.name for path in files if not _appears(path)]
        if unseen:
            own.problems.append(f"does not see in {folder} what was written there by {unseen}")
        shutil.rmtree(scratch, ignore_errors=True)
    dist.barrier()


def _write(own: RankReport, folder: Path, file: Path, num_bytes: int) -> None:
    """Measure space and speed."""
    block = os.urandom(2**22)  # nothing that a file system could compress
    try:
        own.free_bytes = shutil.disk_usage(folder).free
        start = time.perf_counter()
        with file.open("wb") as out:
            for _ in range(max(1, num_bytes // len(block))):
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
        own.bytes_written = file.stat().st_size / (time.perf_counter() - start)
    except OSError as error:
        own.problems.append(f"cannot write to {folder}: {error}")


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + SEE_FILE_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True

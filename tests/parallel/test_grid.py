"""Groups are consecutive ranks, and what goes through them arrives whole and in order."""

import pytest
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from taidscale.parallel.collectives import all_gather_rows, all_reduce_, reduce_scatter_rows
from taidscale.parallel.grid import Grid, make_grid
from tests.ranks import on_ranks

CPU = torch.device("cpu")


def group_of(rank: int, tp_size: int) -> list[int]:
    """The ranks that share a teacher with this one."""
    return {
        1: [[0], [1], [2], [3]],
        2: [[0, 1], [0, 1], [2, 3], [2, 3]],
        4: [[0, 1, 2, 3]] * 4,
    }[tp_size][rank]


@pytest.mark.parametrize("tp_size", [1, 2, 4])
@on_ranks(4)
def test_groups_are_consecutive_ranks(tp_size: int) -> None:
    grid, rank = make_grid(tp_size, CPU), dist.get_rank()
    assert (grid.rank, grid.world_size, grid.tp_size) == (rank, 4, tp_size)
    assert dist.get_process_group_ranks(grid.tp_group) == group_of(rank, tp_size)
    assert grid.tp_rank == group_of(rank, tp_size).index(rank) == dist.get_rank(grid.tp_group)
    assert grid.is_first == (rank == 0)
    assert grid.device == CPU
    assert (grid.tensor.size, grid.tensor.index) == (tp_size, grid.tp_rank)
    assert (grid.data.size, grid.sequence.size) == (4 // tp_size, 1)
    place = grid.data.index * grid.sequence.size + grid.sequence.index
    assert place * grid.tensor.size + grid.tensor.index == rank
    assert grid.of_group(list("abcd")) == ["abcd"[r] for r in group_of(rank, tp_size)]


@on_ranks(4)
def test_tp_size_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="tp_size 3 does not divide the 4 ranks"):
        make_grid(3, CPU)


@on_ranks(4)
def test_sum_over_world_is_exact_and_leaves_its_input() -> None:
    grid, rank = make_grid(2, CPU), dist.get_rank()
    # Neither fits a narrower type: 2^53 + 1 is no float64, 1 + 2^-50 no float32.
    counts = torch.tensor([2**53 + 1 if rank == 3 else 0, rank])
    total = grid.sum_over_world(counts)
    assert total.dtype == torch.int64
    assert total.tolist() == [2**53 + 1, 6]
    assert counts.tolist() == [2**53 + 1 if rank == 3 else 0, rank]
    losses = torch.tensor([2.0**-50 if rank == 2 else 0.25, -rank], dtype=torch.float64)
    total = grid.sum_over_world(losses)
    assert total.dtype == torch.float64
    assert total.tolist() == [0.75 + 2.0**-50, -6.0]
    assert losses.tolist() == [2.0**-50 if rank == 2 else 0.25, -rank]
    # A scalar stays one: `int()` is what its callers do with it.
    assert int(grid.sum_over_world(torch.tensor(rank))) == 6


@on_ranks(4)
def test_first_problem_is_that_of_the_lowest_rank() -> None:
    grid = make_grid(2, CPU)
    for having, expected in (([], None), ([2], "of 2"), ([3, 1], "of 1"), ([0, 1], "of 0")):
        problem = f"of {grid.rank}" if grid.rank in having else None
        assert grid.first_problem(problem) == expected
    # An empty text is a problem too, if a silent one.
    assert grid.first_problem("" if grid.rank == 1 else None) == ""


@on_ranks(4)
def test_gather_in_rank_order() -> None:
    grid = make_grid(2, CPU)
    assert grid.gather({"rank": grid.rank}) == [{"rank": rank} for rank in range(4)]


@on_ranks(4)
def test_as_on_first() -> None:
    grid = make_grid(4, CPU)
    mine = {"rank": grid.rank, "names": ["a"] * (grid.rank + 1)}
    assert grid.as_on_first(mine) == {"rank": 0, "names": ["a"]}
    assert grid.as_on_first(None if grid.is_first else "other") is None


@pytest.mark.parametrize("tp_size", [2, 4])
@on_ranks(4)
def test_all_gather_rows_in_rank_order(tp_size: int) -> None:
    grid = make_grid(tp_size, CPU)
    members = group_of(grid.rank, tp_size)
    local = rows_of(grid.rank)
    expected = torch.cat([rows_of(member) for member in members])
    assert torch.equal(all_gather_rows(local, grid.tp_group), expected)
    # Not contiguous: the columns of a wider tensor.
    wide = torch.cat([local, local + 0.5], 1)
    assert torch.equal(all_gather_rows(wide[:, :2], grid.tp_group), expected)
    ids = torch.full((3,), grid.rank)
    gathered = all_gather_rows(ids, grid.tp_group)
    assert gathered.dtype == torch.int64
    assert gathered.tolist() == [member for member in members for _ in range(3)]


@pytest.mark.parametrize("tp_size", [2, 4])
@on_ranks(4)
def test_reduce_scatter_rows_sums(tp_size: int) -> None:
    grid = make_grid(tp_size, CPU)
    members = group_of(grid.rank, tp_size)
    partials = [torch.arange(4.0 * tp_size).view(-1, 2) ** (1 + member) for member in members]
    mine = partials[grid.tp_rank].clone()
    own = slice(2 * grid.tp_rank, 2 * grid.tp_rank + 2)
    assert torch.equal(reduce_scatter_rows(mine, grid.tp_group), torch.stack(partials).sum(0)[own])


@pytest.mark.parametrize("tp_size", [2, 4])
@on_ranks(4)
def test_all_reduce_in_place(tp_size: int) -> None:
    grid = make_grid(tp_size, CPU)
    members = group_of(grid.rank, tp_size)
    for operation, reduce in ((dist.ReduceOp.MAX, max), (dist.ReduceOp.SUM, sum)):
        values = torch.tensor([float(grid.rank), -float(grid.rank), 1.0])
        reduced = all_reduce_(values, operation, grid.tp_group)
        assert reduced is values
        expected = [reduce(members), reduce(-member for member in members), reduce([1] * tp_size)]
        assert values.tolist() == expected


@on_ranks(2)
def test_groups_of_one_rank_do_not_communicate() -> None:
    alone, together = make_grid(1, CPU), make_grid(2, CPU)
    rows = rows_of(alone.rank)[:2]

    def collectives(grid: Grid) -> list[torch.Tensor]:
        return [
            all_gather_rows(rows, grid.tp_group),
            reduce_scatter_rows(rows, grid.tp_group),
            all_reduce_(rows, dist.ReduceOp.SUM, grid.tp_group),
        ]

    with profile(activities=[ProfilerActivity.CPU]) as work:
        results = collectives(alone)
    assert all(result is rows for result in results)
    assert torch.equal(rows, rows_of(alone.rank)[:2])
    assert _num_collectives(work) == 0
    with profile(activities=[ProfilerActivity.CPU]) as work:
        collectives(together)
    assert _num_collectives(work) == 3


def _num_collectives(work: profile) -> int:
    return sum(event.name.startswith("c10d::") for event in work.events() or ())


def rows_of(rank: int) -> torch.Tensor:
    """[3, 2], different for each rank and row."""
    return torch.arange(6.0).view(3, 2) + 10 * rank

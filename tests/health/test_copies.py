"""A copy of weights that differs is found, and its rank named."""

import pytest
import torch

from taidscale.health.copies import CopyCheck
from taidscale.parallel.grid import AgreedError, make_grid
from tests.ranks import on_ranks

CPU = torch.device("cpu")


@on_ranks(4)
def test_a_majority_names_the_odd_rank() -> None:
    grid = make_grid(2, CPU)
    copies = CopyCheck(grid)
    teacher = {"embed": 10 + grid.tp_rank, "norm": 5}
    student = {"norm.weight": 1, "bias": -(1 << 63)}
    copies.check(0, teacher, student)
    copies.check(100, teacher, student)
    bad = student | ({"bias": 7} if grid.rank == 2 else {})
    with pytest.raises(AgreedError) as failure:
        copies.check(200, teacher, bad)
    message = str(failure.value)
    assert "step 200: the student's bias is corrupt on rank 2 (" in message
    assert "without that node. All copies were equal after step 100; delete later" in message
    assert "rank 0" not in message
    assert "rank 1" not in message
    assert "more tensors" not in message


@on_ranks(4)
def test_the_teachers_earlier_hashes_name_the_odd_rank_of_two() -> None:
    grid = make_grid(2, CPU)
    copies = CopyCheck(grid)
    teacher = {"embed": 10 + grid.tp_rank, "norm": 5}
    copies.check(30, teacher, {})
    bad = {"embed": 99, "norm": 98} if grid.rank == 1 else teacher
    with pytest.raises(AgreedError, match=r"teacher's embed is corrupt on rank 1 .*and 1 more"):
        copies.check(40, bad, {})


@on_ranks(2)
def test_without_a_majority_it_says_so() -> None:
    grid = make_grid(1, CPU)
    copies = CopyCheck(grid)
    with pytest.raises(AgreedError, match=r"no majority tells which.*before the first step"):
        copies.check(0, {}, {"bias": grid.rank})


@on_ranks(2)
def test_a_single_copy_is_compared_with_itself() -> None:
    grid = make_grid(2, CPU)
    copies = CopyCheck(grid)
    teacher = {"embed": grid.rank}
    for step in range(2):
        copies.check(step, teacher, {})
    with pytest.raises(AgreedError, match=r"the teacher's embed is corrupt on rank 0 \("):
        copies.check(2, {"embed": 7} if grid.rank == 0 else teacher, {})

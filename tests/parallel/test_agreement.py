"""What one rank cannot do, all of them hear of: in one way, whoever asks."""

import errno
import re
from pathlib import Path

import pytest

from taidscale.parallel.agreement import on_first, together
from taidscale.parallel.grid import AgreedError
from tests.checkpoint.stores import this_grid
from tests.ranks import on_ranks

ROOT = Path(__file__).parents[2]


@on_ranks(3)
def test_all_fail_with_the_first_problem() -> None:
    grid = this_grid()

    def fails(error: Exception) -> int:
        if grid.rank:
            raise error
        return grid.rank

    with pytest.raises(AgreedError, match=r"^no such setting$"):
        together(grid, lambda: fails(ValueError("no such setting")))
    with pytest.raises(AgreedError, match=r"^\[Errno 28\] No space left: '/a'$"):
        together(grid, lambda: fails(OSError(errno.ENOSPC, "No space left", "/a")))
    with pytest.raises(RuntimeError, match=r"^rank 1: KeyError\('step'\)$"):
        together(grid, lambda: fails(KeyError("step")))
    assert together(grid, lambda: grid.rank) == grid.rank


@on_ranks(2)
def test_the_first_acts_and_all_hear_of_it() -> None:
    grid = this_grid()
    assert on_first(grid, lambda: grid.rank) == 0

    def fails() -> None:
        raise OSError(f"rank {grid.rank}")

    with pytest.raises(AgreedError, match=r"^rank 0$"):
        on_first(grid, fails)


def test_nobody_else_agrees_on_problems() -> None:
    sources = ROOT.glob("taidscale/**/*.py")
    users = {path.name for path in sources if re.search(r"\.first_problem\(", path.read_text())}
    assert users == {"agreement.py"}

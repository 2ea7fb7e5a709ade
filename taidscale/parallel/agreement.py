"""On all ranks, or on none: what one of them cannot do, all of them hear of."""

import logging
from collections.abc import Callable
from typing import TypeVar

from taidscale.parallel.grid import AgreedError, Grid

log = logging.getLogger(__name__)

T = TypeVar("T")


def together(grid: Grid, act: Callable[[], T]) -> T:
    """Do something on every rank, and go on only if all of them succeeded.

    Raises:
        AgreedError: with the first rank's ValueError or OSError that has one: what a user can mend.
        RuntimeError: likewise, with any other.

    Cost: one all-gather of short strings.
    """
    problem: tuple[type[Exception], str] | None = None
    try:
        result = act()
    except (ValueError, OSError) as error:
        problem = (AgreedError, str(error))
    except Exception as error:  # whatever it is, the other ranks must hear of it
        log.exception("rank %d", grid.rank)
        problem = (RuntimeError, f"rank {grid.rank}: {error!r}")
    if problem := grid.first_problem(problem):
        kind, text = problem
        raise kind(text)
    return result


def on_first(grid: Grid, act: Callable[[], T]) -> T:
    """Do something on the first rank alone; all of them get what came of it, or fail with it.

    Raises:
        AgreedError: as `together`.
        RuntimeError: likewise.

    Cost: that of `together`, and one broadcast of the pickled result.
    """
    results = together(grid, lambda: [act()] if grid.is_first else [])
    return grid.as_on_first(results)[0]

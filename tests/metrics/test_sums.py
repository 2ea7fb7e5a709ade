"""Means over all ranks weigh every token equally."""

import pytest
import torch

from taidscale.metrics.sums import LossSums
from taidscale.parallel.grid import make_grid
from tests.ranks import on_ranks

COUNTS = ((5, 1), (0, 11))
"""Valid tokens of each micro-batch of each rank."""


def losses_of(rank: int, micro_batch: int) -> torch.Tensor:
    """A loss for each valid token, float64."""
    generator = torch.Generator().manual_seed(10 * rank + micro_batch)
    count = COUNTS[rank][micro_batch]
    return torch.rand(count, generator=generator, dtype=torch.float64) + 3 * rank + micro_batch


@on_ranks(2)
def test_mean_over_world_is_the_mean_over_tokens() -> None:
    grid = make_grid(1, torch.device("cpu"))
    sums = LossSums()
    for micro_batch in range(2):
        losses = losses_of(grid.rank, micro_batch)
        # The order of names differs between the ranks.
        named = {"loss": losses.sum(), "square": losses.square().sum()}
        sums.add(named if grid.is_first else dict(reversed(named.items())))
    means = sums.mean_over_world(grid, num_valid=17)

    everything = [losses_of(rank, micro_batch) for rank in range(2) for micro_batch in range(2)]
    tokens = torch.cat(everything)
    assert len(tokens) == 17
    assert means.keys() == {"loss", "square"}
    assert means["loss"] == pytest.approx(tokens.mean().item(), rel=1e-15)
    assert means["square"] == pytest.approx(tokens.square().mean().item(), rel=1e-15)
    weighted = sums.mean_over_world(grid, num_valid=17, weight=8.5)
    assert weighted == {"loss": 2 * means["loss"], "square": means["square"]}
    of_micro_batches = [part.mean().item() for part in everything if len(part)]
    of_ranks = [torch.cat(everything[:2]).mean().item(), torch.cat(everything[2:]).mean().item()]
    for wrong in (of_micro_batches, of_ranks):
        assert abs(means["loss"] - sum(wrong) / len(wrong)) > 0.1
    assert grid.first_problem(None if means == grid.as_on_first(means) else "differs") is None


@on_ranks(2)
def test_no_valid_token_gives_zero() -> None:
    grid = make_grid(1, torch.device("cpu"))
    sums = LossSums()
    sums.add({"loss": torch.zeros((), dtype=torch.float64)})
    assert sums.mean_over_world(grid, num_valid=0) == {"loss": 0.0}


@on_ranks(1)
def test_adding_leaves_the_sums_of_a_micro_batch() -> None:
    grid = make_grid(1, torch.device("cpu"))
    sums = LossSums()
    first, second = {"loss": torch.tensor(1.0).double()}, {"loss": torch.tensor(2.0).double()}
    sums.add(first)
    sums.add(second)
    assert sums.mean_over_world(grid, num_valid=2) == {"loss": 1.5}
    assert (first["loss"].item(), second["loss"].item()) == (1.0, 2.0)

"""Adding up what ranks and micro-batches saw, token by token."""

import torch

from taidscale.parallel.grid import Grid


class LossSums:
    """Sums over valid tokens, by name; means over the world are weighted by tokens."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, sums: dict[str, torch.Tensor]) -> None:
        """Add one micro-batch's sums over this rank's valid tokens: float64 scalars."""
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def mean_over_world(
        self, grid: Grid, num_valid: int, weight: float | None = None
    ) -> dict[str, float]:
        """Means per valid token of all ranks; equal on all of them, 0 where there is none.

        Args:
            grid: all ranks.
            num_valid: valid tokens of all ranks.
            weight: sum of their weights, by which the weighted `loss` is divided; that of all
                ones by default.

        Cost: one all-reduce of a float64 per name.
        """
        names = sorted(self._sums)
        total = grid.sum_over_world(torch.stack([self._sums[name] for name in names]))
        means = dict(zip(names, (total / max(num_valid, 1)).tolist(), strict=True))
        if weight and weight != num_valid:
            means["loss"] *= num_valid / weight
        return means

"""RMSNorm over all heads at once, of which this rank has some (OLMo 2 and 3)."""

import torch
import torch.distributed as dist
from torch import nn

from taidscale.engine.row_parallel import sum_over_ranks


class WideNorm(nn.Module):
    """x · weight / rms(x), where x lies on the ranks of a group, each with its part.

    Cost: one all-reduce of a float32 number per token.
    """

    def __init__(
        self, weight: nn.Parameter, size: int, eps: float, group: dist.ProcessGroup
    ) -> None:
        """Make it of this rank's part of the weights.

        Args:
            weight: [own].
            size: elements that all ranks have together.
            eps: added to the mean square.
            group: of the ranks.
        """
        super().__init__()
        self.weight = weight
        self._size, self._eps, self._group = size, eps, group

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., own] to the same."""
        wide = inputs.float()
        squares = sum_over_ranks(wide.square().sum(-1, keepdim=True), self._group)
        normalised = wide * torch.rsqrt(squares / self._size + self._eps)
        return (self.weight * normalised).to(inputs.dtype)

"""Sums over the ranks of a tp_group, in DeepSpeed's inference mode."""

import torch
import torch.distributed as dist
from deepspeed import comm
from torch import nn


class RowParallelLinear(nn.Linear):
    """A projection of which this rank holds some inputs; its outputs are summed over the ranks.

    Cost: one all-reduce of the outputs within the group.
    """

    def __init__(self, part: nn.Linear, group: dist.ProcessGroup) -> None:
        """Take over a projection that is cut already, with its whole bias."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = part.in_features, part.out_features
        self.weight = part.weight
        self.register_parameter("bias", part.bias)
        self.group = group

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., in] of this rank to [..., out] of all."""
        outputs = sum_over_ranks(nn.functional.linear(inputs, self.weight), self.group)
        return outputs if self.bias is None else outputs.add_(self.bias)


def sum_over_ranks(partial: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Sum in place over the ranks of a group; no gradient.

    Cost: one all-reduce of `partial`.
    """
    comm.inference_all_reduce(partial, group=group)
    return partial

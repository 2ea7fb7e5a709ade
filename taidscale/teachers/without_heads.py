"""Attention of a rank that has no head of it: where there are more ranks than key-value heads."""

from typing import Any

import torch
from torch import nn

from taidscale.engine.row_parallel import RowParallelLinear
from taidscale.teachers.wide_norm import WideNorm


class WithoutHeads(nn.Module):
    """What is left of an attention module: its part in the sums over the ranks.

    Kernels of attention need not take tensors without heads; torch 2.11's dies of them.

    Cost: that of the attention which it stands for.
    """

    def __init__(self, attention: nn.Module) -> None:
        """Keep the parts that other ranks wait for, under their names."""
        super().__init__()
        for name, child in attention.named_children():
            if isinstance(child, RowParallelLinear | WideNorm):
                self.add_module(name, child)

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        """[B, S, D] to what all ranks' heads together give: [B, S, D]."""
        nothing = hidden_states.new_empty(*hidden_states.shape[:-1], 0)
        outputs = nothing
        for child in sorted(self.children(), key=lambda child: isinstance(child, nn.Linear)):
            outputs = child(nothing)  # the norms first, then the projection
        return outputs, None

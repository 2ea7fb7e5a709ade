"""Attention of a rank that has no head of it: where there are more ranks than key-value heads."""

from typing import Any

import torch
from torch import nn

from taidscale.engine.row_parallel import RowParallelLinear
from taidscale.teachers.wide_norm import WideNorm


def skip_heads(attention: nn.Module) -> None:
    """Leave an attention module nothing to compute but its part in the sums over the ranks.

    Kernels of attention need not take tensors without heads; torch 2.11's dies of them. The module
    stays, as layers ask it for this and that.

    Args:
        attention: of transformers, divided.
    """
    (output,) = (child for child in attention.children() if isinstance(child, RowParallelLinear))
    norms = [child for child in attention.children() if isinstance(child, WideNorm)]

    def forward(hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        """[B, S, D] to what the heads of all ranks together give: [B, S, D]."""
        nothing = hidden_states.new_empty(*hidden_states.shape[:-1], 0)
        for norm in norms:
            norm(nothing)
        return output(nothing), None

    attention.forward = forward

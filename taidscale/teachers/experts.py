"""A mixture of experts in inference mode, each expert divided over the tp_group.

Every rank holds some columns of every expert, so that all of them have the same work whatever the
router chooses. Shapes: n tokens, D hidden size, E experts, k experts of a token, v this rank's
columns of an expert.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers.activations import ACT2FN

from taidscale.engine.row_parallel import sum_over_ranks
from taidscale.teachers.routing import Router, Routing

_ALIGNED = 16
"""Bytes at whose multiples rows must start for CUDA's grouped products."""


class Experts(nn.Module):
    """All experts, and the sum of those that a token goes to."""

    def __init__(
        self, num_experts: int, hidden_size: int, width: int, act: str, **kind: Any
    ) -> None:
        """Make them without weights.

        Args:
            num_experts: E.
            hidden_size: D.
            width: v.
            act: name of the activation.
            kind: type and device of the weights.
        """
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(num_experts, 2 * width, hidden_size, **kind))
        self.down = nn.Parameter(torch.empty(num_experts, hidden_size, width, **kind))
        self.act = ACT2FN[act]

    def forward(
        self, tokens: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """This rank's part of the weighted sums, [n, D].

        Tokens are sorted by expert, so that each expert sees its own in one product.

        Args:
            tokens: [n, D].
            chosen: [n, k], experts.
            weights: [n, k], float32.
        """
        order = chosen.flatten().argsort(stable=True)
        ends = torch.bincount(chosen.flatten(), minlength=len(self.down)).cumsum(0)
        products = self.products(tokens[order // chosen.shape[1]], ends)  # [n·k, D]
        products.mul_(weights.flatten()[order, None])
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        return products[place].view(*chosen.shape, -1).sum(1)

    def products(self, rows: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """What each row's expert makes of it: [m, D] to the same.

        Args:
            rows: sorted by expert.
            ends: [E], the row at which those of each end.
        """
        hidden = gated(grouped_product(rows, self.gate_up, ends), self.act)
        return grouped_product(hidden, self.down, ends)


def gated(gate_up: torch.Tensor, act: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """act(gate) · up, of both side by side: [m, 2·v] to [m, v]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return act(gate).mul_(up)


def grouped_product(rows: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Each row by the matrix of its group: [m, in] to [m, out].

    Args:
        rows: [m, in], sorted by group.
        matrices: [E, out, in].
        ends: [E], the row at which each group ends.
    """
    aligned = matrices.shape[-1] * matrices.element_size() % _ALIGNED == 0
    aligned = aligned and matrices.shape[-2] * matrices.element_size() % _ALIGNED == 0
    if not rows.is_cuda or (rows.dtype == torch.bfloat16 and aligned):
        return nn.functional.grouped_mm(rows, matrices.transpose(-2, -1), offs=ends.int())
    products = rows.new_empty(len(rows), matrices.shape[1])
    start = 0
    for matrix, end in zip(matrices, ends.tolist(), strict=True):
        torch.mm(rows[start:end], matrix.t(), out=products[start:end])
        start = end
    return products


class SharedExpert(nn.Module):
    """An MLP that every token goes to, beside the experts of its choice."""

    def __init__(self, hidden_size: int, width: int, act: str, has_gate: bool, **kind: Any) -> None:
        """Make it without weights.

        Args:
            hidden_size: D.
            width: v.
            act: name of the activation.
            has_gate: whether a gate of one output weighs it.
            kind: type and device of the weights.
        """
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(2 * width, hidden_size, **kind))
        self.down = nn.Parameter(torch.empty(hidden_size, width, **kind))
        self.gate = nn.Parameter(torch.empty(1, hidden_size, **kind)) if has_gate else None
        self.act = ACT2FN[act]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """This rank's part, [n, D]."""
        hidden = gated(nn.functional.linear(tokens, self.gate_up), self.act)
        part = nn.functional.linear(hidden, self.down)
        if self.gate is not None:
            part.mul_(nn.functional.linear(tokens, self.gate).sigmoid())
        return part


class MixtureOfExperts(nn.Module):
    """In place of a mixture of transformers'.

    Cost: one all-reduce of the hidden states within the tp_group.
    """

    def __init__(
        self,
        router: Router,
        experts: Experts,
        shared: nn.Module | None,
        group: dist.ProcessGroup | None,
        with_logits: bool,
    ) -> None:
        """Put its parts together.

        Args:
            router: whole.
            experts: this rank's columns of each.
            shared: likewise.
            group: of the ranks with the other columns; None if there are none.
            with_logits: whether the caller expects a pair, whose second member it drops.
        """
        super().__init__()
        self.router, self.experts, self.shared = router, experts, shared
        self._group, self._with_logits = group, with_logits

    @property
    def routing(self) -> Routing:
        """How tokens find their experts."""
        return self.router.routing

    def forward(self, hidden: torch.Tensor) -> Any:
        """[B, S, D] to the same."""
        tokens = hidden.flatten(0, -2)
        total = self.experts(tokens, *self.router(tokens))
        if self.shared is not None:
            total += self.shared(tokens)
        if self._group is not None:
            sum_over_ranks(total, self._group)
        total = total.view(hidden.shape)
        return (total, None) if self._with_logits else total

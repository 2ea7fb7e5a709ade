"""What the loss needs of a teacher.

Shapes: N tokens of the tp_group, c of them, v vocabulary entries of this rank, Dt the teacher's
hidden size.
"""

from dataclasses import dataclass
from typing import Protocol

import torch


class TeacherSignal(Protocol):
    """A teacher's logits of the tp_group's tokens, a chunk at a time, in this rank's columns.

    The loss asks nothing else of a teacher, whatever it is. Logits may differ from the teacher's by
    a constant of each token: only their softmax counts.
    """

    @property
    def num_tokens(self) -> int:
        """N."""

    @property
    def num_columns(self) -> int:
        """v."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the logits."""

    def write_logits(self, tokens: slice, out: torch.Tensor) -> None:
        """Fill `out`, [c, v] of `dtype`, with the logits of these tokens. No gradient."""

    def evidence(self, tokens: slice) -> torch.Tensor:
        """What the logits of these tokens come from, any shape: finite where they are."""


@dataclass(frozen=True)
class HeadSignal:
    """Logits that a head makes of hidden states."""

    hidden: torch.Tensor
    """[N, Dt], equal on all ranks of the tp_group."""
    head_rows: torch.Tensor
    """[v, Dt], this rank's rows of the head."""
    softcap: float | None = None
    """Gemma 2's bound on logits: cap·tanh(z / cap)."""
    scale: float = 1.0
    """Factor of logits, before they are bounded."""
    head_bias: torch.Tensor | None = None
    """[v]."""

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.hidden)

    @property
    def num_columns(self) -> int:
        """v."""
        return len(self.head_rows)

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states."""
        return self.hidden.dtype

    def write_logits(self, tokens: slice, out: torch.Tensor) -> None:
        """hidden · head_rowsᵀ + head_bias, scaled and bounded."""
        torch.mm(self.hidden[tokens], self.head_rows.t(), out=out)
        if self.head_bias is not None:
            out.add_(self.head_bias)
        if self.scale != 1.0:
            out.mul_(self.scale)
        softcap_(out, self.softcap)

    def evidence(self, tokens: slice) -> torch.Tensor:
        """Their hidden states, [c, Dt]."""
        return self.hidden[tokens]


def softcap_(logits: torch.Tensor, cap: float | None) -> None:
    """Bound logits to ±cap in place: cap·tanh(z / cap)."""
    if cap is not None:
        logits.div_(cap).tanh_().mul_(cap)

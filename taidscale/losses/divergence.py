"""What an objective has to say: the statistics it needs, and each token's value and gradient.

Everything else (chunks, masks, collectives, temperature, cross entropy, accumulation) is
done once, in `fused_head`. An objective sees p, the teacher's distribution, and
q = softmax(u), the student's, both already at the temperature τ: u = z_s/τ.

Shapes: C tokens, v columns of this rank, k statistics.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from taidscale.losses.chunk import Chunk
from taidscale.losses.columns import Columns


class Divergence(ABC):
    """How far q is from p, token by token."""

    kernel: ClassVar[str | None] = None
    """Name of f and slope in `losses.kernel_code`, where a `Separable` one has them for Triton."""
    parameter: float
    """What f depends on there, if anything."""

    @property
    def interpolation(self) -> float | None:
        """The teacher's share t of softmax((1-t)·z_s/τ + t·z_t/τ), if its moments are needed."""
        return None

    @property
    def has_kernel(self) -> bool:
        """Whether a kernel writes the gradient, where there are any."""
        return self.interpolation is not None or self.kernel is not None

    @abstractmethod
    def statistics(self, chunk: Chunk) -> torch.Tensor:
        """What value and gradient need of the whole vocabulary: [k, C].

        Args:
            chunk: its moments are known. `chunk.sum` and `chunk.maximum` reduce over the ranks.
        """

    @abstractmethod
    def value(self, statistics: torch.Tensor) -> torch.Tensor:
        """D of each token in nats: [C]."""

    @abstractmethod
    def gradient(self, columns: Columns, statistics: torch.Tensor) -> torch.Tensor:
        """D's derivative by u, in this rank's columns: [C, v], a new tensor.

        Args:
            columns: some of the tokens.
            statistics: of these tokens.
        """

    @abstractmethod
    def dense(self, log_p: torch.Tensor, log_q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """D of each token as one would write it down, with the whole vocabulary and autograd: [N].

        What training must equal, for verification and tests.

        Args:
            log_p: [N, V], the teacher's log-probabilities.
            log_q: [N, V], the student's, which gradient reaches.
            labels: [N] int64, negative where there is none.
        """

    def signals(self, statistics: torch.Tensor) -> dict[str, torch.Tensor]:
        """What an adaptive t may follow, [C] each: `mixture_kl` and `mixture_cross_entropy`."""
        del statistics
        return {}


def dense_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) of each token, [N], from the whole vocabulary; what both exclude counts nothing."""
    return (log_p.exp() * (log_p - log_q)).nan_to_num(nan=0.0).sum(1)


class Separable(Divergence):
    """D = Σ f(p, q) over the vocabulary; only f and its slope differ.

    With slope_i = ∂f(p_i, q_i)/∂(log q_i), softmax's derivative gives
    dD/du_i = slope_i - q_i·Σ_j slope_j. So two sums suffice: D and that of the slopes.
    """

    @abstractmethod
    def terms(self, log_p: torch.Tensor, log_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """f and its slope: [C, v] each. `log_p` and `log_q` may be overwritten."""

    def statistics(self, chunk: Chunk) -> torch.Tensor:
        """Σ f and Σ slope.

        Cost: an all-reduce SUM of [2, C].
        """
        if chunk.with_kernels and self.kernel is not None:
            return chunk.kernel_sums(self.kernel, self.parameter)

        def sums(columns: Columns) -> torch.Tensor:
            values, slopes = self.terms(columns.log_p(), columns.log_q())
            return torch.stack([values.sum(1), slopes.sum(1)])

        return chunk.sum(sums)

    def value(self, statistics: torch.Tensor) -> torch.Tensor:
        """Σ f."""
        return statistics[0]

    def gradient(self, columns: Columns, statistics: torch.Tensor) -> torch.Tensor:
        """slope - q·Σ slope."""
        log_q = columns.log_q()
        q = log_q.exp()
        _, slopes = self.terms(columns.log_p(), log_q)
        return slopes.sub_(q.mul_(statistics[1][:, None]))

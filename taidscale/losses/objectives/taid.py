"""TAID: KL from an interpolation of teacher and student to the student.

Shing, Misaki, Bao, Yokoi and Akiba, arXiv:2501.16937, section 3. The logits are interpolated,
m = (1-t)·stopgrad(z_s)/τ + t·z_t/τ, and D = KL(softmax(m) ‖ q); no gradient passes through
m, so dD/du = q - softmax(m). At t = 1 this is forward KL, KL(p ‖ q).
"""

from dataclasses import dataclass

import torch

from taidscale.losses.chunk import Chunk
from taidscale.losses.columns import Columns
from taidscale.losses.divergence import Divergence, dense_kl


@dataclass(frozen=True)
class Taid(Divergence):
    """KL(softmax((1-t)·z_s/τ + t·z_t/τ) ‖ q)."""

    t: float

    @property
    def interpolation(self) -> float:
        """t."""
        return self.t

    def statistics(self, chunk: Chunk) -> torch.Tensor:
        """The normaliser of the interpolation, D, and the soft cross entropy.

        Cost: none beyond the moments.
        """
        moments = chunk.moments
        assert moments is not None
        assert moments.mixture is not None
        assert moments.mixture_kl is not None
        assert moments.mixture_cross_entropy is not None
        maximum, log_sum = moments.mixture.maximum, moments.mixture.log_sum
        return torch.stack([maximum, log_sum, moments.mixture_kl, moments.mixture_cross_entropy])

    def dense(self, log_p: torch.Tensor, log_q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        del labels
        mixed = (1 - self.t) * log_q.detach() + self.t * log_p
        return dense_kl(mixed.log_softmax(1), log_q)

    def value(self, statistics: torch.Tensor) -> torch.Tensor:
        """D."""
        return statistics[2]

    def gradient(self, columns: Columns, statistics: torch.Tensor) -> torch.Tensor:
        """q - softmax(m)."""
        mixed = columns.interpolated(self.t).sub_(statistics[0][:, None])
        target = mixed.sub_(statistics[1][:, None]).exp_()
        return columns.log_q().exp_().sub_(target)

    def signals(self, statistics: torch.Tensor) -> dict[str, torch.Tensor]:
        """The paper's KL, and the cross entropy that its published code follows."""
        return {"mixture_kl": statistics[2], "mixture_cross_entropy": statistics[3]}


class ForwardKL(Taid):
    """KL(p ‖ q), the classical distillation loss (Hinton et al., arXiv:1503.02531)."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def signals(self, statistics: torch.Tensor) -> dict[str, torch.Tensor]:
        """None: there is no t to move."""
        del statistics
        return {}

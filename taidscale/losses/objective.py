"""From a configured loss to what a training step minimises."""

from dataclasses import dataclass
from typing import assert_never

from taidscale.config.loss import (
    AdaptiveKLLoss,
    AlphaBetaLoss,
    AlphaMixtureLoss,
    CrossEntropyLoss,
    DecoupledKLLoss,
    ForwardKLLoss,
    JensenShannonLoss,
    LossConfig,
    ReverseKLLoss,
    SkewForwardKLLoss,
    SkewReverseKLLoss,
    TaidLoss,
    TotalVariationLoss,
)
from taidscale.losses.divergence import Divergence
from taidscale.losses.objectives.adaptive_kl import AdaptiveKL
from taidscale.losses.objectives.alpha_beta import AlphaBeta
from taidscale.losses.objectives.alpha_mixture import AlphaMixture
from taidscale.losses.objectives.decoupled_kl import DecoupledKL
from taidscale.losses.objectives.jensen_shannon import JensenShannon
from taidscale.losses.objectives.reverse_kl import ReverseKL
from taidscale.losses.objectives.skew_kl import SkewForwardKL, SkewReverseKL
from taidscale.losses.objectives.taid import ForwardKL, Taid
from taidscale.losses.objectives.total_variation import TotalVariation


@dataclass(frozen=True)
class Objective:
    """Loss of a token: (1-w)·τ²·D(p_τ, q_τ) - w·log q[label]."""

    divergence: Divergence | None
    """D, between the distributions of both models' logits divided by τ; None is cross entropy
    alone.
    """
    temperature: float = 1.0
    """τ. The τ² keeps the size of the gradient (Hinton et al., arXiv:1503.02531)."""
    cross_entropy_weight: float = 0.0
    """w."""

    @classmethod
    def at(cls, loss: LossConfig, *, t: float, cross_entropy_weight: float) -> "Objective":
        """The configured loss at the present t and w."""
        divergence = divergence_of(loss, t)
        if isinstance(loss, CrossEntropyLoss):
            return CROSS_ENTROPY
        return cls(divergence, loss.temperature, cross_entropy_weight)

    @property
    def has_kernel(self) -> bool:
        """Whether a kernel writes the gradient, where there are any."""
        return self.divergence is None or self.divergence.has_kernel

    @property
    def divergence_weight(self) -> float:
        """The factor of D: (1-w)·τ²."""
        return (1 - self.cross_entropy_weight) * self.temperature**2


CROSS_ENTROPY = Objective(None, cross_entropy_weight=1.0)
"""Next-token cross entropy alone."""


def divergence_of(loss: LossConfig, t: float) -> Divergence | None:  # noqa: C901, one case each
    """D of a configured loss at the present t."""
    match loss:
        case TaidLoss():
            return Taid(t)
        case ForwardKLLoss():
            return ForwardKL()
        case ReverseKLLoss():
            return ReverseKL()
        case JensenShannonLoss(beta=0.0):
            return ForwardKL()
        case JensenShannonLoss(beta=1.0):
            return ReverseKL()
        case JensenShannonLoss():
            return JensenShannon(loss.beta)
        case SkewForwardKLLoss():
            return SkewForwardKL(loss.skew)
        case SkewReverseKLLoss():
            return SkewReverseKL(loss.skew)
        case TotalVariationLoss():
            return TotalVariation()
        case AdaptiveKLLoss():
            return AdaptiveKL(loss.head_mass)
        case DecoupledKLLoss():
            return DecoupledKL(loss.target_weight, loss.non_target_weight)
        case AlphaBetaLoss():
            return AlphaBeta(loss.alpha, loss.beta)
        case AlphaMixtureLoss():
            return AlphaMixture(loss.alpha, t, loss.compare)
        case CrossEntropyLoss():
            return None
        case _:
            assert_never(loss)

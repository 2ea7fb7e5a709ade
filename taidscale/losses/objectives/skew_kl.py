"""Skew KL: one distribution is compared with a mixture in which a little of it is mixed.

Ko et al., DistiLLM (arXiv:2402.03898), who use a skew of 0.1. The mixture never vanishes
where the first distribution does not, so the divergence stays bounded by -log(skew).
"""

from dataclasses import dataclass

import torch

from taidscale.losses.divergence import Separable, dense_kl
from taidscale.losses.power_mean import log_power_mean


@dataclass(frozen=True)
class SkewForwardKL(Separable):
    """KL(p ‖ α·p + (1-α)·q), α the skew in (0, 1).

    With M the mixture: f = p·(log p - log M), slope -(1-α)·p·q/M.
    """

    parameter: float
    """α."""

    kernel = "skew_forward_kl"

    def dense(self, log_p: torch.Tensor, log_q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        del labels
        skew = self.parameter
        return dense_kl(log_p, (skew * log_p.exp() + (1 - skew) * log_q.exp()).log())

    def terms(self, log_p: torch.Tensor, log_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        difference = log_p - log_q
        m_over_q = log_power_mean(difference, self.parameter)
        p = log_p.exp_()
        values = difference.sub_(m_over_q).mul_(p)
        return values, m_over_q.neg_().exp_().mul_(p).mul_(self.parameter - 1)


@dataclass(frozen=True)
class SkewReverseKL(Separable):
    """KL(q ‖ (1-α)·p + α·q), α the skew in (0, 1).

    With M the mixture: f = q·(log q - log M), slope q·(log q - log M + 1 - α·q/M).
    """

    parameter: float
    """α."""

    kernel = "skew_reverse_kl"

    def dense(self, log_p: torch.Tensor, log_q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        del labels
        skew = self.parameter
        return dense_kl(log_q, ((1 - skew) * log_p.exp() + skew * log_q.exp()).log())

    def terms(self, log_p: torch.Tensor, log_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        difference = log_p - log_q
        m_over_q = log_power_mean(difference, 1 - self.parameter)
        q = log_q.exp_()
        # (1-α)·p/M is 1 - α·q/M without the cancellation.
        p_over_m = difference.sub_(m_over_q).exp_()
        values = m_over_q.neg_().mul_(q)
        return values, p_over_m.mul_(1 - self.parameter).mul_(q).add_(values)

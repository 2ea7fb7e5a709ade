"""Generalised Jensen-Shannon divergence, between forward and reverse KL.

Agarwal et al., GKD (arXiv:2306.13649): with M = β·p + (1-β)·q,
JSD(β) = β·KL(p ‖ M) + (1-β)·KL(q ‖ M). JSD(β)/β goes to KL(p ‖ q) for β to 0, and
JSD(β)/(1-β) to KL(q ‖ p) for β to 1; β = 0 and β = 1 stand for these two, as elsewhere in
the field.
"""

from dataclasses import dataclass

import torch

from taidscale.losses.divergence import Separable, dense_kl
from taidscale.losses.power_mean import log_power_mean


@dataclass(frozen=True)
class JensenShannon(Separable):
    """JSD(β) for β in (0, 1).

    f = β·p·(log p - log M) + (1-β)·q·(log q - log M), slope (1-β)·q·(log q - log M): what the
    derivative of log M adds to both terms cancels.
    """

    parameter: float
    """β."""

    kernel = "jensen_shannon"

    def dense(self, log_p: torch.Tensor, log_q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        del labels
        beta = self.parameter
        log_m = (beta * log_p.exp() + (1 - beta) * log_q.exp()).log()
        return beta * dense_kl(log_p, log_m) + (1 - beta) * dense_kl(log_q, log_m)

    def terms(self, log_p: torch.Tensor, log_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        beta = self.parameter
        q, difference = log_q.exp(), log_p - log_q
        m_over_q = log_power_mean(difference, beta)
        values = log_p.exp_().mul_(beta).mul_(difference.sub_(m_over_q))
        slopes = q.mul_(beta - 1).mul_(m_over_q)
        return values.add_(slopes), slopes

"""Total variation distance, Σ |p - q| / 2.

As distillation loss: Wen et al., f-DISTILL (arXiv:2307.15190). Bounded by 1; where p = q its
slope is taken as 0.
"""

import torch

from taidscale.losses.divergence import Separable


class TotalVariation(Separable):
    """f = |p - q|/2, slope q·sign(q - p)/2."""

    kernel = "total_variation"
    parameter = 0.0

    def dense(self, log_p: torch.Tensor, log_q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        del labels
        return (log_p.exp() - log_q.exp()).abs().sum(1) / 2

    def terms(self, log_p: torch.Tensor, log_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        q = log_q.exp_()
        half_gap = (q - log_p.exp_()).mul_(0.5)
        return half_gap.abs(), q.mul_(half_gap.sign()).mul_(0.5)

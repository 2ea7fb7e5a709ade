"""α-β divergence: how much likely entries count, and how much large ratios, tuned apart.

Wang et al., ABKD (arXiv:2505.04560), who distil language models with α = 0.2, β = 0.7. With
c = α + β, D = Σ (α·p^c/c + β·q^c/c - p^α·q^β) / (α·β); it goes to KL(p ‖ q) for α to 1 and β
to 0, to KL(q ‖ p) for α to 0 and β to 1.
"""

from dataclasses import dataclass

import torch

from taidscale.losses.divergence import Separable


@dataclass(frozen=True)
class AlphaBeta(Separable):
    """D for α, β > 0. Slope (q^c - p^α·q^β)/α."""

    alpha: float
    beta: float

    def dense(self, log_p: torch.Tensor, log_q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        del labels
        alpha, beta, c = self.alpha, self.beta, self.alpha + self.beta
        p, q = log_p.exp(), log_q.exp()
        terms = alpha / c * p**c + beta / c * q**c - p**alpha * q**beta
        return terms.sum(1) / (alpha * beta)

    def terms(self, log_p: torch.Tensor, log_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        alpha, beta, total = self.alpha, self.beta, self.alpha + self.beta
        log_mixed = torch.add(log_p * alpha, log_q, alpha=beta)
        difference = log_p - log_q
        of_p = _exp_difference(log_p.mul_(total), log_mixed, difference * beta)
        of_q = _exp_difference(log_q.mul_(total), log_mixed, difference.mul_(-alpha))
        slopes = of_q.div_(alpha)
        return of_p.div_(beta).add_(slopes).div_(total), slopes


def _exp_difference(x: torch.Tensor, y: torch.Tensor, gap: torch.Tensor) -> torch.Tensor:
    """e^x - e^y for x - y = gap, exactly where they are close: a new tensor."""
    return torch.maximum(x, y).exp_().mul_(gap.abs().neg_().expm1_().neg_()).mul_(gap.sign())

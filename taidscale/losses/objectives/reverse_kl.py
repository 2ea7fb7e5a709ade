"""Reverse KL: the student is punished for what the teacher finds unlikely.

KL(q ‖ p), as distillation loss of language models in MiniLLM (Gu et al., arXiv:2306.08543);
here of each token's distribution, without sampling.
"""

import torch

from taidscale.losses.divergence import Separable, dense_kl


class ReverseKL(Separable):
    """Σ q·(log q - log p); slope q·(log q - log p + 1)."""

    kernel = "reverse_kl"
    parameter = 0.0

    def dense(self, log_p: torch.Tensor, log_q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        del labels
        return dense_kl(log_q, log_p)

    def terms(self, log_p: torch.Tensor, log_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        q = log_q.exp()
        values = log_q.sub(log_p).mul_(q)
        return values, q.add_(values)

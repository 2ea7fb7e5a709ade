"""α-mixture: the family of interpolations between teacher and student.

Shin et al., AMiD (arXiv:2510.15982). With a = (1-α)/2, the mixture is
r ∝ (t·p^a + (1-t)·q^a)^(1/a), for α = 1 its limit r ∝ p^t·q^(1-t). So α = 1 mixes
logits (TAID), α = -1 probabilities (DistiLLM). Two ways to learn from it:

- `mixture_to_student`: KL(r ‖ q), r taken as a constant, as TAID does;
- `teacher_to_mixture`: KL(p ‖ r), the gradient passes through r, as DistiLLM does.
"""

from dataclasses import dataclass
from math import log
from typing import Literal, assert_never

import torch

from taidscale.losses.chunk import Chunk
from taidscale.losses.columns import Columns, row_dots
from taidscale.losses.divergence import Divergence, dense_kl
from taidscale.losses.power_mean import log_power_mean


@dataclass(frozen=True)
class AlphaMixture(Divergence):
    """KL between teacher, α-mixture and student."""

    alpha: float
    t: float
    """The teacher's share."""
    compare: Literal["mixture_to_student", "teacher_to_mixture"]

    def statistics(self, chunk: Chunk) -> torch.Tensor:
        """Maximum of log r, unnormalised; log Σ; D; and one more, by what is compared.

        That is the cross entropy for KL(r ‖ q), and Σ slope for KL(p ‖ r).

        Cost: an all-reduce MAX of [1, C] and one SUM of [3, C] or [4, C].
        """

        def largest(columns: Columns) -> torch.Tensor:
            return self._log_mixture(columns.log_p(), columns.log_q()).amax(1)[None]

        top = chunk.maximum(largest)[0]

        def sums(columns: Columns) -> torch.Tensor:
            log_p, log_q = columns.log_p(), columns.log_q()
            log_r = self._log_mixture(log_p, log_q).sub_(top[columns.rows, None])
            r = log_r.exp()
            if self.compare == "mixture_to_student":
                return torch.stack([r.sum(1), row_dots(r, log_q), row_dots(r, log_r.sub_(log_q))])
            share = self._student_share(log_p, log_q)
            p = log_p.exp()
            difference = row_dots(p, log_p.sub_(log_r))
            return torch.stack([r.sum(1), difference, row_dots(r, share), row_dots(p, share)])

        total, *rest = chunk.sum(sums)
        log_total = total.log()
        match self.compare:
            case "mixture_to_student":
                r_log_q, difference = rest
                values = [difference / total - log_total, -r_log_q / total]
            case "teacher_to_mixture":
                difference, r_share, p_share = rest
                values = [difference + log_total, r_share / total - p_share]
            case _:
                assert_never(self.compare)
        return torch.stack([top, log_total, *values])

    def dense(self, log_p: torch.Tensor, log_q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        del labels
        if self.compare == "mixture_to_student":
            return dense_kl(self.dense_mixture(log_p, log_q.detach()).log(), log_q)
        return dense_kl(log_p, self.dense_mixture(log_p, log_q).log())

    def dense_mixture(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        """r as one would write it down: [N, V]."""
        a, t, p, q = (1 - self.alpha) / 2, self.t, log_p.exp(), log_q.exp()
        r = p**t * q ** (1 - t) if a == 0 else (t * p**a + (1 - t) * q**a) ** (1 / a)
        return r / r.sum(1, keepdim=True)

    def value(self, statistics: torch.Tensor) -> torch.Tensor:
        """D."""
        return statistics[2]

    def gradient(self, columns: Columns, statistics: torch.Tensor) -> torch.Tensor:
        """q - r; or with s the student's share of r, s·(r - p) - q·Σ s·(r - p)."""
        log_p, log_q = columns.log_p(), columns.log_q()
        top, log_total = statistics[:2, :, None]
        r = self._log_mixture(log_p, log_q).sub_(top).sub_(log_total).exp_()
        if self.compare == "mixture_to_student":
            return log_q.exp_().sub_(r)
        slopes = self._student_share(log_p, log_q).mul_(r.sub_(log_p.exp_()))
        return slopes.sub_(log_q.exp_().mul_(statistics[3][:, None]))

    def signals(self, statistics: torch.Tensor) -> dict[str, torch.Tensor]:
        """Those of KL(r ‖ q), as TAID's."""
        if self.compare == "teacher_to_mixture":
            return {}
        return {"mixture_kl": statistics[2], "mixture_cross_entropy": statistics[3]}

    @property
    def _exponent(self) -> float:
        return (1 - self.alpha) / 2

    def _log_mixture(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        """Log r less a constant of the token: [C, v], a new tensor."""
        return log_power_mean(log_p - log_q, self.t, self._exponent).add_(log_q)

    def _student_share(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        """∂ log r / ∂ log q before normalisation, (1-t)·q^a / (t·p^a + (1-t)·q^a): [C, v]."""
        if self.t in (0.0, 1.0):
            return torch.full_like(log_q, 1 - self.t)
        odds = (log_q - log_p).mul_(self._exponent).add_(log(1 - self.t) - log(self.t))
        return odds.sigmoid_()

"""Decoupled KL: the label's probability, and the shape of all others, weighted apart.

Zhao et al., Decoupled Knowledge Distillation (arXiv:2203.08679). With b = (p_y, 1 - p_y) for
the label y, and p̂ the distribution over all other entries,
D = α·KL(b_p ‖ b_q) + β·KL(p̂ ‖ q̂); KL(p ‖ q) has α = 1 and β = 1 - p_y.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from taidscale.losses.chunk import Chunk
from taidscale.losses.columns import Columns, row_dots
from taidscale.losses.divergence import Divergence, dense_kl


@dataclass(frozen=True)
class DecoupledKL(Divergence):
    """α·KL(b_p ‖ b_q) + β·KL(p̂ ‖ q̂)."""

    target_weight: float
    """α."""
    non_target_weight: float
    """β."""

    def statistics(self, chunk: Chunk) -> torch.Tensor:
        """Of all entries but the label's and of the label, seven rows.

        Maximum and log Σe of log q and of log p, and KL(p̂ ‖ q̂), without the label; then its
        log-odds in q and in p.

        Cost: an all-reduce MAX of [2, C] and one SUM of [5, C].
        """

        def largest(columns: Columns) -> torch.Tensor:
            others = [_without_label(columns, x) for x in (columns.log_q(), columns.log_p())]
            return torch.stack([x.amax(1) for x in others])

        maxima = chunk.maximum(largest)

        def sums(columns: Columns) -> torch.Tensor:
            log_q, log_p = columns.log_q(), columns.log_p()
            label_q, label_p = columns.at_label(log_q), columns.at_label(log_p)
            top_q, top_p = maxima[:, columns.rows, None]
            s = log_q.sub_(top_q)
            w = log_p.sub_(top_p)
            es = _without_label(columns, s.clone()).exp_()
            ew = _without_label(columns, w.clone()).exp_()
            return torch.stack([es.sum(1), ew.sum(1), row_dots(ew, w.sub_(s)), label_q, label_p])

        z_q, z_p, difference, label_q, label_p = chunk.sum(sums)
        log_z_q, log_z_p = z_q.log(), z_p.log()
        return torch.stack(
            [
                maxima[0],
                log_z_q,
                maxima[1],
                log_z_p,
                difference / z_p + (z_q / z_p).log(),
                label_q - (maxima[0] + log_z_q),
                label_p - (maxima[1] + log_z_p),
            ]
        )

    def dense(self, log_p: torch.Tensor, log_q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        is_label = torch.zeros_like(log_p).scatter(1, labels.clamp(min=0)[:, None], 1.0) > 0
        others_p, others_q = (x.masked_fill(is_label, -torch.inf) for x in (log_p, log_q))
        others = dense_kl(others_p.log_softmax(1), others_q.log_softmax(1))
        p, q = log_p[is_label].exp(), log_q[is_label].exp()
        binary = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        return self.target_weight * binary + self.non_target_weight * others

    def value(self, statistics: torch.Tensor) -> torch.Tensor:
        """D."""
        non_target, odds_q, odds_p = statistics[4:]
        target = odds_p.sigmoid() * (logsigmoid(odds_p) - logsigmoid(odds_q))
        target += (-odds_p).sigmoid() * (logsigmoid(-odds_p) - logsigmoid(-odds_q))
        value: torch.Tensor = self.target_weight * target + self.non_target_weight * non_target
        return value

    def gradient(self, columns: Columns, statistics: torch.Tensor) -> torch.Tensor:
        """α·(q_y - p_y) at the label, β·(q̂ - p̂) - α·(q_y - p_y)·q̂ elsewhere."""
        top_q, log_z_q, top_p, log_z_p = statistics[:4, :, None]
        q_hat = _without_label(columns, columns.log_q()).sub_(top_q).sub_(log_z_q).exp_()
        p_hat = _without_label(columns, columns.log_p()).sub_(top_p).sub_(log_z_p).exp_()
        at_label = self.target_weight * (statistics[5].sigmoid() - statistics[6].sigmoid())
        gradient = (q_hat - p_hat).mul_(self.non_target_weight).sub_(q_hat * at_label[:, None])
        return columns.add_at_label_(gradient, at_label)


def _without_label(columns: Columns, values: torch.Tensor) -> torch.Tensor:
    """-inf at the label, in place."""
    return columns.add_at_label_(values, values.new_full((len(values),), -torch.inf))

"""KL from an interpolation of teacher and student to the student, token by token.

TAID (arXiv:2501.16937, section 3) interpolates logits: m = (1-t)·stopgrad(z_s) + t·z_t,
p = softmax(m / τ), loss τ²·KL(p ‖ softmax(z_s / τ)). At t = 1 this is forward KL. Everything
follows from sums over the vocabulary that may be split over ranks, so each function here
sees one rank's columns, and the caller reduces in between: `local_maxima`, all-reduce MAX,
`local_sums`, all-reduce SUM, `token_losses` and `logit_gradient`.

Shapes: C tokens, v columns of this rank. All arithmetic is in float32, or float64 for
float64 logits.
"""

from dataclasses import dataclass
from typing import assert_never

import torch

from taidscale.config.loss import CrossEntropyLoss, ForwardKLLoss, LossConfig, TaidLoss


@dataclass(frozen=True)
class Objective:
    """Loss of a token: w_d·τ²·KL(p ‖ q_τ) - w_c·log q[label], w the two weights."""

    t: float = 1.0
    """Teacher's share of the interpolation."""
    temperature: float = 1.0
    """τ. The τ² keeps the size of the gradient (Hinton et al., arXiv:1503.02531)."""
    distillation_weight: float = 1.0
    cross_entropy_weight: float = 0.0

    @classmethod
    def at(cls, loss: LossConfig, t: float) -> "Objective":
        """The configured loss at the present t."""
        match loss:
            case TaidLoss() | ForwardKLLoss():
                weight = loss.cross_entropy_weight
                return cls(t, loss.temperature, 1.0 - weight, weight)
            case CrossEntropyLoss():
                return cls(distillation_weight=0.0, cross_entropy_weight=1.0)
            case _:
                assert_never(loss)


@dataclass(frozen=True)
class Columns:
    """One rank's columns of the logits of C tokens."""

    student: torch.Tensor
    """[C, v] student logits."""
    teacher: torch.Tensor | None
    """[C, v] teacher logits, where there is a teacher."""
    labels: torch.Tensor
    """[C] int64, column of the label in this shard; anything outside 0..v-1 where it is not."""

    def rows(self, block: slice) -> "Columns":
        """Some of the tokens, in the type in which the arithmetic is done."""
        widen = _wide(self.student.dtype)
        teacher = None if self.teacher is None else self.teacher[block].to(widen)
        return Columns(self.student[block].to(widen), teacher, self.labels[block])

    def interpolated(self, objective: Objective) -> torch.Tensor:
        """M / τ, [C, v]."""
        assert self.teacher is not None
        mixed = torch.lerp(self.student, self.teacher, objective.t)
        return mixed if objective.temperature == 1.0 else mixed.div_(objective.temperature)

    def at_label(self, values: torch.Tensor) -> torch.Tensor:
        """values[token, label] where the label is in this shard, else 0: [C]."""
        inside = (self.labels >= 0) & (self.labels < values.shape[1])
        picked = values.gather(1, self.labels.clamp(0, values.shape[1] - 1)[:, None])[:, 0]
        return picked.where(inside, torch.zeros_like(picked))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def local_maxima(columns: Columns, objective: Objective) -> torch.Tensor:
    """Largest student, teacher and interpolated logit of each token: [3, C], or [1, C] alone."""
    if columns.teacher is None:
        return columns.student.amax(1)[None]
    return torch.stack(
        [
            columns.student.amax(1),
            columns.teacher.amax(1),
            columns.interpolated(objective).amax(1),
        ]
    )


def local_sums(columns: Columns, maxima: torch.Tensor, objective: Objective) -> torch.Tensor:
    """Sums over this rank's columns that `token_losses` needs: [11, C], or [3, C] alone.

    With s, w, m the student, teacher and interpolated logits less their maxima over the whole
    vocabulary: Σe^s, Σe^s·s, s[label]; then Σe^w, Σe^w·w, Σe^w·s, w[label]; then Σe^m, Σe^m·s/τ,
    Σe^(s/τ) and Σe^m·(m - s/τ).
    """
    s = columns.student - maxima[0][:, None]
    es = s.exp()
    sums = [es.sum(1), _dot(es, s), columns.at_label(s)]
    if columns.teacher is None:
        return torch.stack(sums)
    w = columns.teacher - maxima[1][:, None]
    ew = w.exp()
    sums += [ew.sum(1), _dot(ew, w), _dot(ew, s), columns.at_label(w)]
    m = columns.interpolated(objective).sub_(maxima[2][:, None])
    em = torch.exp(m, out=ew)
    scaled = s if objective.temperature == 1.0 else s.div_(objective.temperature)
    sums += [em.sum(1), _dot(em, scaled)]
    sums.append(sums[0] if objective.temperature == 1.0 else scaled.exp().sum(1))
    # The difference inside the sum, not outside: where student and teacher are close, the
    # two sums would cancel and leave their rounding.
    sums.append(_dot(em, m.sub_(scaled)))
    return torch.stack(sums)


def _dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Row-wise inner products, without a [C, v] product in memory."""
    products: torch.Tensor = torch.linalg.vecdot(left, right)
    return products


def token_losses(sums: torch.Tensor, objective: Objective) -> dict[str, torch.Tensor]:
    """Every token's loss and what is reported of it, from the sums over the whole vocabulary.

    Args:
        sums: `local_sums`, summed over the ranks.
        objective: the same.

    Returns:
        By name, [C] each, in nats: `loss`; `next_token_loss`; `student_entropy`; and with a
        teacher `mixture_kl` = KL(p ‖ q_τ), `mixture_cross_entropy` = -Σ p·log q_τ (the signals
        of the adaptive t), and at τ = 1 `teacher_kl` = KL(teacher ‖ student),
        `teacher_entropy` and `teacher_next_token_loss`.
    """
    z_s, s_s, s_label = sums[:3]
    log_z_s = z_s.log()
    tokens = {
        "next_token_loss": log_z_s - s_label,
        "student_entropy": log_z_s - s_s / z_s,
    }
    tokens["loss"] = objective.cross_entropy_weight * tokens["next_token_loss"]
    if len(sums) == 3:
        return tokens
    z_w, w_w, w_s, w_label, z_m, m_s, z_tau, m_difference = sums[3:]
    tokens["teacher_entropy"] = z_w.log() - w_w / z_w
    tokens["teacher_kl"] = log_z_s - w_s / z_w - tokens["teacher_entropy"]
    tokens["teacher_next_token_loss"] = z_w.log() - w_label
    tokens["mixture_cross_entropy"] = z_tau.log() - m_s / z_m
    tokens["mixture_kl"] = m_difference / z_m + (z_tau / z_m).log()
    scale = objective.distillation_weight * objective.temperature**2
    tokens["loss"] = tokens["loss"] + scale * tokens["mixture_kl"]
    return tokens


def logit_gradient(
    columns: Columns, maxima: torch.Tensor, sums: torch.Tensor, objective: Objective
) -> torch.Tensor:
    """D loss / d student logits of each token: [C, v].

    distillation_weight·τ·(softmax(z_s/τ) - p) + cross_entropy_weight·(softmax(z_s) - onehot).
    """
    tau = objective.temperature
    s = columns.student - maxima[0][:, None]
    gradient = torch.zeros_like(s)
    if columns.teacher is not None and objective.distillation_weight:
        p = columns.interpolated(objective).sub_(maxima[2][:, None]).exp_()
        torch.exp(s if tau == 1.0 else s / tau, out=gradient)
        gradient.div_(sums[9][:, None]).sub_(p.div_(sums[7][:, None]))
        gradient.mul_(objective.distillation_weight * tau)
    if objective.cross_entropy_weight:
        weight = objective.cross_entropy_weight
        gradient.add_(s.exp_().div_(sums[0][:, None]), alpha=weight)
        inside = (columns.labels >= 0) & (columns.labels < s.shape[1])
        rows = inside.nonzero()[:, 0]
        gradient[rows, columns.labels[rows]] -= weight
    return gradient

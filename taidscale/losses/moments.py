"""What every objective and every report needs of the whole vocabulary.

One rank's columns give sums that refer to the rank's own maxima (`local_moments`); the
ranks' sums are then brought to the maxima of the whole vocabulary and added (`merged`). So
one pass over the logits and one all-gather do, and all ranks compute the same values from
the same numbers, in the same order.

Shapes: C tokens, v columns of this rank, T ranks. With s, w the student's and the teacher's
logits less their maxima a, b, and m = ((1-t)·s_raw + t·w_raw)/τ - c TAID's interpolation less
its maximum c, the rows of the moments are

    0 a   1 Σe^s   2 Σe^s·s   3 the student's logit at the label
    4 b   5 Σe^w   6 Σe^w·w   7 Σe^w·(w - s)   8 the teacher's logit at the label
    9 Σe^(s/τ)   10 Σe^(w/τ)
    11 c   12 Σe^m   13 Σe^m·s/τ   14 Σe^m·(m - s/τ)

The differences stand inside the sums: where student and teacher are close, two sums would
cancel and leave their rounding.
"""

from dataclasses import dataclass

import torch

from taidscale.losses.columns import Columns, Normaliser, row_dots

ALONE, WITH_TEACHER, WITH_MIXTURE = 4, 11, 15
"""Number of rows without a teacher, with one, and with an interpolation of both."""


@dataclass(frozen=True)
class Moments:
    """Of C tokens over the whole vocabulary."""

    student: Normaliser
    """At τ."""
    student_log_sum: torch.Tensor
    """[C], at τ = 1."""
    tokens: dict[str, torch.Tensor]
    """What is reported, [C] each, in nats, at τ = 1: `next_token_loss`, `student_entropy`, and
    with a teacher `teacher_kl` = KL(teacher ‖ student), `teacher_entropy` and
    `teacher_next_token_loss`.
    """
    teacher: Normaliser | None = None
    """At τ."""
    mixture: Normaliser | None = None
    """Of m, whose logits are already divided by τ."""
    mixture_kl: torch.Tensor | None = None
    """[C], KL(softmax(m) ‖ q), q the student at τ."""
    mixture_cross_entropy: torch.Tensor | None = None
    """[C], -Σ softmax(m)·log q."""

    def normalisers(self) -> torch.Tensor:
        """Maximum and log-sums of the student at τ and at 1, then those of the teacher: [5, C].

        Without a teacher the last two rows are the student's again.
        """
        teacher = self.teacher or self.student
        rows = [self.student.maximum, self.student.log_sum, self.student_log_sum]
        return torch.stack([*rows, teacher.maximum, teacher.log_sum])


def local_moments(columns: Columns, t: float | None) -> torch.Tensor:
    """The moments of this rank's columns: [k, C].

    Args:
        columns: without normalisers.
        t: teacher's share of the interpolation, where one is asked for.
    """
    tau = columns.temperature
    a = columns.student.amax(1)
    s = columns.student - a[:, None]
    es = s.exp()
    rows = [a, es.sum(1), row_dots(es, s), columns.at_label(columns.student)]
    if columns.teacher is None:
        return torch.stack(rows)
    b = columns.teacher.amax(1)
    w = columns.teacher - b[:, None]
    ew = torch.exp(w, out=es)
    rows += [b, ew.sum(1), row_dots(ew, w)]
    at_tau = [rows[1], rows[5]] if tau == 1.0 else [(s / tau).exp().sum(1), (w / tau).exp().sum(1)]
    rows += [row_dots(ew, w.sub_(s)), columns.at_label(columns.teacher), *at_tau]
    if t is None:
        return torch.stack(rows)
    m = columns.interpolated(t)
    c = m.amax(1)
    em = torch.exp(m.sub_(c[:, None]), out=ew)
    if tau != 1.0:
        s.div_(tau)
    rows += [c, em.sum(1), row_dots(em, s), row_dots(em, m.sub_(s))]
    return torch.stack(rows)


def merged(parts: torch.Tensor, temperature: float) -> Moments:
    """The moments of the whole vocabulary from those of each rank.

    Args:
        parts: `local_moments` of every rank, [T, k, C].
        temperature: τ.
    """
    rows = _at_common_maxima(parts, temperature) if len(parts) > 1 else parts[0]
    a, z_s, s_s, s_label = rows[:ALONE]
    log_z_s = z_s.log()
    tokens = {
        "next_token_loss": log_z_s - (s_label - a),
        "student_entropy": log_z_s - s_s / z_s,
    }
    if len(rows) == ALONE:
        return Moments(Normaliser(a, log_z_s), log_z_s, tokens)
    b, z_w, w_w, w_difference, w_label, z_s_tau, z_w_tau = rows[ALONE:WITH_TEACHER]
    log_z_w = z_w.log()
    tokens["teacher_entropy"] = log_z_w - w_w / z_w
    tokens["teacher_kl"] = w_difference / z_w + (z_s / z_w).log()
    tokens["teacher_next_token_loss"] = log_z_w - (w_label - b)
    student, teacher = Normaliser(a, z_s_tau.log()), Normaliser(b, z_w_tau.log())
    if len(rows) == WITH_TEACHER:
        return Moments(student, log_z_s, tokens, teacher)
    c, z_m, m_s, m_difference = rows[WITH_TEACHER:]
    return Moments(
        student,
        log_z_s,
        tokens,
        teacher,
        mixture=Normaliser(c, z_m.log()),
        mixture_kl=m_difference / z_m + (z_s_tau / z_m).log(),
        mixture_cross_entropy=z_s_tau.log() - m_s / z_m,
    )


def _at_common_maxima(parts: torch.Tensor, temperature: float) -> torch.Tensor:
    """Add up what refers to each rank's own maxima: [k, C]."""
    a, z_s, s_s, s_label = parts.unbind(1)[:ALONE]
    top_a = a.amax(0)
    d_a = a - top_a
    e_a = d_a.exp()
    rows = [top_a, (e_a * z_s).sum(0), (e_a * (s_s + d_a * z_s)).sum(0), s_label.sum(0)]
    if parts.shape[1] == ALONE:
        return torch.stack(rows)
    b, z_w, w_w, w_difference, w_label, z_s_tau, z_w_tau = parts.unbind(1)[ALONE:WITH_TEACHER]
    top_b = b.amax(0)
    d_b = b - top_b
    e_b = d_b.exp()
    rows += [
        top_b,
        (e_b * z_w).sum(0),
        (e_b * (w_w + d_b * z_w)).sum(0),
        (e_b * (w_difference + (d_b - d_a) * z_w)).sum(0),
        w_label.sum(0),
        ((d_a / temperature).exp() * z_s_tau).sum(0),
        ((d_b / temperature).exp() * z_w_tau).sum(0),
    ]
    if parts.shape[1] == WITH_TEACHER:
        return torch.stack(rows)
    c, z_m, m_s, m_difference = parts.unbind(1)[WITH_TEACHER:]
    top_c = c.amax(0)
    d_c, d_s = c - top_c, d_a / temperature
    e_c = d_c.exp()
    rows += [
        top_c,
        (e_c * z_m).sum(0),
        (e_c * (m_s + d_s * z_m)).sum(0),
        (e_c * (m_difference + (d_c - d_s) * z_m)).sum(0),
    ]
    return torch.stack(rows)

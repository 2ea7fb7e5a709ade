"""Every loss as one would write it down: full logits, autograd, no shortcuts.

Shapes: N tokens, V vocabulary entries.
"""

import torch

from taidscale.losses.divergence import Divergence
from taidscale.losses.inputs import IGNORED
from taidscale.losses.objective import Objective
from taidscale.losses.objectives.adaptive_kl import AdaptiveKL
from taidscale.losses.objectives.alpha_beta import AlphaBeta
from taidscale.losses.objectives.alpha_mixture import AlphaMixture
from taidscale.losses.objectives.decoupled_kl import DecoupledKL
from taidscale.losses.objectives.jensen_shannon import JensenShannon
from taidscale.losses.objectives.reverse_kl import ReverseKL
from taidscale.losses.objectives.skew_kl import SkewForwardKL, SkewReverseKL
from taidscale.losses.objectives.taid import Taid
from taidscale.losses.objectives.total_variation import TotalVariation


def dense_losses(
    objective: Objective, z_s: torch.Tensor, z_t: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    """Loss of each token: [N], 0 where it has no label; gradient reaches `z_s` alone."""
    tau, weight = objective.temperature, objective.cross_entropy_weight
    losses = weight * torch.nn.functional.cross_entropy(
        z_s, labels, reduction="none", ignore_index=IGNORED
    )
    if objective.divergence is not None:
        assert z_t is not None
        d = dense_divergence(objective.divergence, z_s / tau, z_t.detach() / tau, labels)
        losses = losses + (1 - weight) * tau**2 * d
    return losses.where(labels != IGNORED, 0.0)


def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Of each token; entries that both exclude count nothing."""
    return (log_p.exp() * (log_p - log_q)).nan_to_num(nan=0.0).sum(1)


def dense_divergence(  # noqa: C901, one case each
    divergence: Divergence, u_s: torch.Tensor, u_t: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """D of each token from the logits divided by τ: [N]."""
    log_p, log_q = u_t.log_softmax(1), u_s.log_softmax(1)
    p, q = log_p.exp(), log_q.exp()
    match divergence:
        case Taid(t):
            return kl(((1 - t) * u_s.detach() + t * u_t).log_softmax(1), log_q)
        case ReverseKL():
            return kl(log_q, log_p)
        case JensenShannon(beta):
            log_m = (beta * p + (1 - beta) * q).log()
            return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)
        case SkewForwardKL(skew):
            return kl(log_p, (skew * p + (1 - skew) * q).log())
        case SkewReverseKL(skew):
            return kl(log_q, ((1 - skew) * p + skew * q).log())
        case TotalVariation():
            return (p - q).abs().sum(1) / 2
        case AdaptiveKL(mass):
            ordered, order = p.sort(1, descending=True)
            in_head = torch.zeros_like(p).scatter(
                1, order, (ordered.cumsum(1) - ordered < mass).to(p)
            )
            gap = (p - q).abs().detach()
            share = (gap * in_head).sum(1) / gap.sum(1)
            return share * kl(log_p, log_q) + (1 - share) * kl(log_q, log_p)
        case DecoupledKL(alpha, beta):
            is_label = torch.zeros_like(p).scatter(1, labels.clamp(min=0)[:, None], 1.0) > 0
            others_t = u_t.masked_fill(is_label, -torch.inf).log_softmax(1)
            others_s = u_s.masked_fill(is_label, -torch.inf).log_softmax(1)
            terms = others_t.exp() * (others_t - others_s).masked_fill(is_label, 0.0)
            at_p, at_q = (x[is_label] for x in (p, q))
            binary = at_p * (at_p / at_q).log() + (1 - at_p) * ((1 - at_p) / (1 - at_q)).log()
            return alpha * binary + beta * terms.sum(1)
        case AlphaBeta(alpha, beta):
            c = alpha + beta
            terms = alpha / c * p**c + beta / c * q**c - p**alpha * q**beta
            return terms.sum(1) / (alpha * beta)
        case AlphaMixture(compare=compare):
            if compare == "mixture_to_student":
                return kl(mixture(divergence, p, q.detach()).log(), log_q)
            return kl(log_p, mixture(divergence, p, q).log())
        case _:
            raise NotImplementedError(divergence)


def mixture(divergence: AlphaMixture, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The α-mixture: [N, V]."""
    a, t = (1 - divergence.alpha) / 2, divergence.t
    r = p**t * q ** (1 - t) if a == 0 else (t * p**a + (1 - t) * q**a) ** (1 / a)
    return r / r.sum(1, keepdim=True)

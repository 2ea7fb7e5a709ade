"""Every divergence against its definition in exact arithmetic, and where its parameters end.

Heads of ones make logits of hidden states, so that the fused head itself is differentiated.
"""

from decimal import Decimal, localcontext
from typing import get_args

import pytest
import torch
import torch.distributed as dist

from taidscale.config.loss import LossConfig
from taidscale.losses.divergence import Divergence
from taidscale.losses.fused_head import fused_head
from taidscale.losses.head_settings import HeadSettings
from taidscale.losses.objective import Objective, divergence_of
from taidscale.losses.objectives.adaptive_kl import AdaptiveKL
from taidscale.losses.objectives.alpha_beta import AlphaBeta
from taidscale.losses.objectives.alpha_mixture import AlphaMixture
from taidscale.losses.objectives.decoupled_kl import DecoupledKL
from taidscale.losses.objectives.jensen_shannon import JensenShannon
from taidscale.losses.objectives.reverse_kl import ReverseKL
from taidscale.losses.objectives.skew_kl import SkewForwardKL, SkewReverseKL
from taidscale.losses.objectives.taid import ForwardKL, Taid
from taidscale.losses.objectives.total_variation import TotalVariation
from taidscale.losses.signal import HeadSignal
from taidscale.losses.vocabulary import Vocabulary
from tests.losses.dense import DIVERGENCES
from tests.ranks import on_ranks

EVERY: dict[str, Divergence] = {
    **DIVERGENCES,
    "taid 0": Taid(0.0),
    "jensen-shannon 0.99": JensenShannon(0.99),
    "skew forward kl 0.9": SkewForwardKL(0.9),
    "skew reverse kl 0.9": SkewReverseKL(0.9),
    "adaptive kl 0.99": AdaptiveKL(0.99),
    "decoupled kl, label alone": DecoupledKL(1.0, 0.0),
    "decoupled kl, label apart": DecoupledKL(0.0, 8.0),
    "α-β, steep": AlphaBeta(2.0, 0.01),
    "α-mixture 1": AlphaMixture(1.0, 0.4, "mixture_to_student"),
    "α-mixture 9": AlphaMixture(9.0, 0.05, "mixture_to_student"),
    "α-mixture -9": AlphaMixture(-9.0, 0.9, "mixture_to_student"),
    "α-mixture 1, learnt": AlphaMixture(1.0, 0.4, "teacher_to_mixture"),
    "α-mixture 0.5, learnt": AlphaMixture(0.5, 0.0, "teacher_to_mixture"),
}
"""The usual ones, and some with parameters near their ends."""


def has_constants(divergence: Divergence) -> bool:
    """Whether the definition takes a part that depends on the student as constant."""
    if isinstance(divergence, AlphaMixture):
        return divergence.compare == "mixture_to_student"
    return isinstance(divergence, Taid | AdaptiveKL)


def loss_and_gradient(
    objective: Divergence | Objective,
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed loss of tokens with these logits, and its gradient by the student's: [N, V]."""
    if isinstance(objective, Divergence):
        objective = Objective(objective)
    size = student.shape[1]
    one = torch.eye(size, dtype=student.dtype)
    settings = HeadSettings(Vocabulary.split(size, 0, 1), dist.group.WORLD, chunk_tokens=3)
    hidden = student.clone().requires_grad_()
    labels = torch.arange(len(student)) % size if labels is None else labels
    total, _ = fused_head(hidden, one, labels, HeadSignal(teacher, one), objective, settings)
    total.backward()
    assert hidden.grad is not None
    return total.detach(), hidden.grad


def assert_same(
    found: tuple[torch.Tensor | float, torch.Tensor],
    expected: tuple[torch.Tensor | float, torch.Tensor],
    tolerance: float = 1e-12,
    of: object = None,
) -> None:
    """Values and gradients, relative to the largest where it exceeds 1."""
    for x, y in zip(found, expected, strict=True):
        x, y = torch.as_tensor(x), torch.as_tensor(y)
        error = (x - y).abs().max() / max(1.0, float(y.abs().max()))
        assert error <= tolerance, of


def logits(num_tokens: int, size: int, seed: int = 0) -> list[torch.Tensor]:
    """Of student and teacher, far enough apart for all divergences: [N, V] each."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, num_tokens, size)
    return list(2 * torch.randn(shape, generator=generator, dtype=torch.float64))


Numbers = list[Decimal]


def exact_loss(
    objective: Objective, z_s: Numbers, z_t: Numbers, label: int, held: Numbers
) -> Decimal:
    """Loss of one token; `held` stands for `z_s` where the definition takes it as constant."""
    tau, weight = Decimal(objective.temperature), Decimal(objective.cross_entropy_weight)
    u_s, u_t, u_held = ([z / tau for z in x] for x in (z_s, z_t, held))
    assert objective.divergence is not None
    d = exact_divergence(objective.divergence, u_s, u_t, label, u_held)
    return (1 - weight) * tau**2 * d - weight * log_softmax(z_s)[label]


def exact_divergence(  # noqa: C901, one case each
    divergence: Divergence, u_s: Numbers, u_t: Numbers, label: int, held: Numbers
) -> Decimal:
    log_p, log_q, log_held = log_softmax(u_t), log_softmax(u_s), log_softmax(held)
    match divergence:
        case Taid(t):
            share = Decimal(t)
            mixed = [(1 - share) * s + share * w for s, w in zip(held, u_t, strict=True)]
            return kl(log_softmax(mixed), log_q)
        case ReverseKL():
            return kl(log_q, log_p)
        case JensenShannon(beta):
            m = log_mixture(beta, log_p, log_q)
            return Decimal(beta) * kl(log_p, m) + (1 - Decimal(beta)) * kl(log_q, m)
        case SkewForwardKL(skew):
            return kl(log_p, log_mixture(skew, log_p, log_q))
        case SkewReverseKL(skew):
            return kl(log_q, log_mixture(skew, log_q, log_p))
        case TotalVariation():
            return sum(gaps(log_p, log_q), Decimal(0)) / 2
        case AdaptiveKL(mass):
            off, before = [Decimal(0), Decimal(0)], Decimal(0)
            for x, gap in sorted(zip(log_p, gaps(log_p, log_held), strict=True), reverse=True):
                off[before >= Decimal(mass)] += gap
                before += x.exp()
            return (off[0] * kl(log_p, log_q) + off[1] * kl(log_q, log_p)) / sum(off)
        case DecoupledKL(alpha, beta):
            others = [
                log_softmax([x for index, x in enumerate(u) if index != label]) for u in (u_t, u_s)
            ]
            binary = [
                [x[label], sum(y.exp() for i, y in enumerate(x) if i != label).ln()]
                for x in (log_p, log_q)
            ]
            return Decimal(alpha) * kl(*binary) + Decimal(beta) * kl(*others)
        case AlphaBeta(alpha, beta):
            a, b = Decimal(alpha), Decimal(beta)
            terms = [
                a / (a + b) * (x * (a + b)).exp()
                + b / (a + b) * (y * (a + b)).exp()
                - (a * x + b * y).exp()
                for x, y in zip(log_p, log_q, strict=True)
            ]
            return sum(terms, Decimal(0)) / (a * b)
        case AlphaMixture(alpha, t, compare):
            learnt = compare == "teacher_to_mixture"
            base, a = log_q if learnt else log_held, (1 - Decimal(alpha)) / 2
            if a == 0:
                mixed = [
                    Decimal(t) * x + (1 - Decimal(t)) * y for x, y in zip(log_p, base, strict=True)
                ]
            else:
                raised = [[a * x for x in y] for y in (log_p, base)]
                mixed = [x / a for x in log_mixture(t, *raised)]
            r = log_softmax(mixed)
            return kl(log_p, r) if learnt else kl(r, log_q)
        case _:
            raise NotImplementedError(divergence)


def log_softmax(u: Numbers) -> Numbers:
    top = max(u)
    log_sum = sum((x - top).exp() for x in u).ln()
    return [x - top - log_sum for x in u]


def kl(log_p: Numbers, log_q: Numbers) -> Decimal:
    return sum((x.exp() * (x - y) for x, y in zip(log_p, log_q, strict=True)), Decimal(0))


def gaps(log_p: Numbers, log_q: Numbers) -> Numbers:
    return [abs(x.exp() - y.exp()) for x, y in zip(log_p, log_q, strict=True)]


def log_mixture(share: float, x: Numbers, y: Numbers) -> Numbers:
    """Log(share·e^x + (1-share)·e^y)."""
    part = Decimal(share)
    return [
        max(a, b) + (part * (a - max(a, b)).exp() + (1 - part) * (b - max(a, b)).exp()).ln()
        for a, b in zip(x, y, strict=True)
    ]


def exact_loss_and_gradient(
    objective: Objective, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """Sum over the tokens, and central differences by the student's logits alone: [N, V]."""
    total, gradient, step = Decimal(0), torch.zeros_like(student), Decimal("1e-15")
    with localcontext(prec=60):
        for token, label in enumerate(labels.tolist()):
            z_s, z_t = ([Decimal(z) for z in x[token].tolist()] for x in (student, teacher))
            total += exact_loss(objective, z_s, z_t, label, z_s)
            for index in range(len(z_s)):
                sides = [
                    exact_loss(objective, moved(z_s, index, by), z_t, label, z_s)
                    for by in (step, -step)
                ]
                gradient[token, index] = float((sides[0] - sides[1]) / (2 * step))
        return float(total), gradient


def moved(z: Numbers, index: int, by: Decimal) -> Numbers:
    return [x + by if i == index else x for i, x in enumerate(z)]


def assert_exact(objective: Objective, student: torch.Tensor, teacher: torch.Tensor) -> None:
    """Relative to the largest entry; what is small is compared absolutely."""
    labels = torch.arange(len(student)) % student.shape[1]
    total, gradient = loss_and_gradient(objective, student, teacher, labels)
    exact_total, exact_gradient = exact_loss_and_gradient(objective, student, teacher, labels)
    assert abs(float(total) - exact_total) <= 1e-12 * max(1, exact_total), objective
    largest = max(1.0, float(exact_gradient.abs().max()))
    assert (gradient - exact_gradient).abs().max() <= 1e-12 * largest, objective


def test_every_configured_objective_is_tested_here() -> None:
    union, *_ = get_args(LossConfig)
    for section in get_args(union):
        (name,) = get_args(section.model_fields["objective"].annotation)
        divergence = divergence_of(section(objective=name), 0.4)
        kinds = {type(x) for x in EVERY.values()} | {ForwardKL, type(None)}
        assert type(divergence) in kinds, name


@on_ranks(1)
def test_value_and_gradient_are_those_of_the_definition() -> None:
    student, teacher = logits(2, 5)
    for divergence in EVERY.values():
        assert_exact(Objective(divergence), student, teacher)
        assert_exact(Objective(divergence, 2.5, 0.3), student, teacher)


@on_ranks(1)
def test_large_logits_lose_nothing() -> None:
    student, teacher = logits(2, 5)
    for divergence in EVERY.values():
        assert_exact(Objective(divergence), 1000 * student, 1000 * teacher)
        assert_exact(Objective(divergence, 0.5), 1000 * student, teacher)
        assert_exact(Objective(divergence, 3.0, 0.1), student, 1000 * teacher)


@on_ranks(1)
def test_close_models_lose_nothing() -> None:
    """A divergence of 1e-10 is not rounded like the entropies that it is the difference of."""
    student, teacher = logits(2, 5)
    close = teacher + 1e-5 * student
    for name, divergence in EVERY.items():
        total, gradient = loss_and_gradient(divergence, close, teacher)
        exact_total, exact_gradient = exact_loss_and_gradient(
            Objective(divergence), close, teacher, torch.tensor([0, 1])
        )
        assert abs(float(total) - exact_total) < 2e-15, name
        assert (gradient - exact_gradient).abs().max() < 2e-15, name


@on_ranks(1)
def test_gradients_of_hidden_states_and_head_are_finite_differences() -> None:
    """Through head, soft cap, temperature, both terms and token weights, along one direction."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    start, direction = ((normal(4, 3), normal(7, 3)) for _ in range(2))
    teacher = HeadSignal(normal(4, 5), normal(7, 5), softcap=2.0)
    labels, factors = torch.tensor([6, -100, 0, 3]), torch.tensor([0.5, 1.0, 1.5, 2.0])
    group = dist.group.WORLD
    settings = HeadSettings(Vocabulary.split(7, 0, 1), group, chunk_tokens=3, softcap=3.0)

    def total_and_slope(objective: Objective, by: float) -> tuple[float, float]:
        inputs = [(x + by * d).requires_grad_() for x, d in zip(start, direction, strict=True)]
        total, _ = fused_head(*inputs, labels, teacher, objective, settings, token_weights=factors)
        total.backward()
        slope = sum((x.grad * d).sum() for x, d in zip(inputs, direction, strict=True))
        return total.item(), float(slope)

    for divergence in EVERY.values():
        if has_constants(divergence):
            continue
        objective, step = Objective(divergence, 1.5, 0.3), 1e-5
        _, slope = total_and_slope(objective, 0.0)
        sides = [total_and_slope(objective, by)[0] for by in (step, -step)]
        assert slope == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-8), divergence

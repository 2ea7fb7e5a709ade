"""Where the parameters of a divergence end, it is another divergence, or nothing."""

from decimal import Decimal, localcontext
from itertools import product

import pytest
import torch

from taidscale.config.loss import JensenShannonLoss
from taidscale.losses.objective import divergence_of
from taidscale.losses.objectives.alpha_beta import AlphaBeta
from taidscale.losses.objectives.alpha_mixture import AlphaMixture
from taidscale.losses.objectives.jensen_shannon import JensenShannon
from taidscale.losses.objectives.reverse_kl import ReverseKL
from taidscale.losses.objectives.skew_kl import SkewForwardKL, SkewReverseKL
from taidscale.losses.objectives.taid import ForwardKL, Taid
from taidscale.losses.power_mean import log_power_mean
from tests.losses.test_divergences import assert_same, logits, loss_and_gradient
from tests.ranks import on_ranks

COMPARISONS = ("mixture_to_student", "teacher_to_mixture")

SHARES = [0.0, 1e-12, 1e-8, 1e-6, 0.01, 0.5, 0.9, 0.99, 1 - 1e-6, 1 - 1e-8, 1 - 1e-12, 1.0]
EXPONENTS = [-4.0, -1.0, -0.25, -1e-6, 0.0, 1e-6, 0.25, 1.0, 5.0]
DIFFERENCES = [0.0, 1e-12, 1e-3, 0.3, 1.0, 30.0, 700.0, 1e4]


@on_ranks(1)
def test_alpha_mixture_at_1_is_taid() -> None:
    student, teacher = logits(4, 9)
    for t in (0.0, 1e-9, 0.4, 1 - 1e-9, 1.0):
        for scale in (1.0, 1000.0):
            inputs = scale * student, scale * teacher
            mixed = loss_and_gradient(AlphaMixture(1.0, t, "mixture_to_student"), *inputs)
            assert_same(mixed, loss_and_gradient(Taid(t), *inputs))


@on_ranks(1)
def test_alpha_mixture_is_continuous_at_1() -> None:
    """At 1 - 1e-6 the exponent is 5e-7: in float32 most powers are 1 but for their last bit."""
    inputs = logits(4, 9)
    for compare in COMPARISONS:
        for t in (0.01, 0.4, 0.99):
            at_1 = loss_and_gradient(AlphaMixture(1.0, t, compare), *inputs)
            for alpha in (1 - 1e-6, 1 + 1e-6):
                near = AlphaMixture(alpha, t, compare)
                assert_same(loss_and_gradient(near, *inputs), at_1, 1e-4, near)
                in_float32 = loss_and_gradient(near, *(x.float() for x in inputs))
                assert_same(in_float32, at_1, 1e-4, near)


@on_ranks(1)
def test_alpha_mixture_at_minus_1_learnt_is_skew_forward_kl() -> None:
    student, teacher = logits(4, 9)
    for share in (1e-6, 0.1, 0.5, 0.99):
        for scale in (1.0, 1000.0):
            inputs = scale * student, scale * teacher
            mixed = loss_and_gradient(AlphaMixture(-1.0, share, "teacher_to_mixture"), *inputs)
            assert_same(mixed, loss_and_gradient(SkewForwardKL(share), *inputs))


@on_ranks(1)
def test_alpha_mixture_ends_at_teacher_and_student() -> None:
    inputs = logits(4, 9)
    zero = (torch.zeros(()), torch.zeros(4, 9))
    forward = loss_and_gradient(ForwardKL(), *inputs)
    for alpha in (-9.0, -1.0, 0.5, 1.0, 3.0, 9.0):
        ends = {
            ("mixture_to_student", 0.0): zero,
            ("mixture_to_student", 1.0): forward,
            ("teacher_to_mixture", 0.0): forward,
            ("teacher_to_mixture", 1.0): zero,
        }
        for (compare, t), end in ends.items():
            divergence = AlphaMixture(alpha, t, compare)
            assert_same(loss_and_gradient(divergence, *inputs), end, of=divergence)


@on_ranks(1)
def test_jensen_shannon_goes_to_forward_and_reverse_kl() -> None:
    inputs, small = logits(4, 9), 1e-8
    for beta, end in ((small, ForwardKL()), (1 - small, ReverseKL())):
        value, gradient = loss_and_gradient(JensenShannon(beta), *inputs)
        assert_same((value / small, gradient / small), loss_and_gradient(end, *inputs), 1e-4)
    value, _ = loss_and_gradient(JensenShannon(0.3), *inputs)
    assert_same(loss_and_gradient(JensenShannon(0.7), *reversed(inputs))[:1], (value,))


def test_configured_ends_of_jensen_shannon_are_the_two_kls() -> None:
    for beta, end in ((0, ForwardKL()), (0.0, ForwardKL()), (1, ReverseKL()), (1.0, ReverseKL())):
        section = JensenShannonLoss(objective="jensen_shannon", beta=beta)
        assert type(divergence_of(section, 0.5)) is type(end)
    section = JensenShannonLoss(objective="jensen_shannon", beta=0.3)
    assert divergence_of(section, 0.5) == JensenShannon(0.3)


@on_ranks(1)
def test_skew_kls_and_alpha_beta_go_to_forward_and_reverse_kl() -> None:
    inputs, small = logits(4, 9), 1e-8
    for near, end in (
        (SkewForwardKL(small), ForwardKL()),
        (SkewReverseKL(small), ReverseKL()),
        (AlphaBeta(1.0, small), ForwardKL()),
        (AlphaBeta(small, 1.0), ReverseKL()),
    ):
        expected = loss_and_gradient(end, *inputs)
        assert_same(loss_and_gradient(near, *inputs), expected, 1e-4, near)


@on_ranks(1)
def test_taid_goes_from_nothing_to_forward_kl() -> None:
    student, teacher = logits(4, 9)
    for scale in (1.0, 1000.0):
        inputs = scale * student, scale * teacher
        value, gradient = loss_and_gradient(Taid(0.0), *inputs)
        assert abs(value) < 1e-15
        assert gradient.abs().max() < 1e-15
        log_p, log_q = (x.log_softmax(1) for x in reversed(inputs))
        forward = (log_p.exp() * (log_p - log_q)).sum(), log_q.exp() - log_p.exp()
        assert_same(loss_and_gradient(Taid(1.0), *inputs), forward)
        assert_same(loss_and_gradient(ForwardKL(), *inputs), forward)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_log_power_mean_is_exact(dtype: torch.dtype) -> None:
    """But for the last bits of the difference, of which the mean is a part."""
    differences = torch.tensor([*DIFFERENCES, *(-x for x in DIFFERENCES)], dtype=dtype)
    before = differences.clone()
    bounds = 5 * torch.finfo(dtype).eps * differences.abs().double()
    for share, exponent in product(SHARES, EXPONENTS):
        found = log_power_mean(differences, share, exponent).double()
        exact = [exact_log_power_mean(d, share, exponent) for d in differences.tolist()]
        error = (found - torch.tensor(exact, dtype=found.dtype)).abs()
        assert (error <= bounds).all(), (share, exponent)
    assert torch.equal(differences, before)


def exact_log_power_mean(difference: float, share: float, exponent: float) -> float:
    with localcontext(prec=60):
        d, part, a = Decimal(difference), Decimal(share), Decimal(exponent)
        if a == 0:
            return float(part * d)
        return float((part * (a * d).exp() + (1 - part)).ln() / a)


@on_ranks(1)
def test_shares_near_their_ends_are_finite_in_float32() -> None:
    """A cosine ramp of t over 10,000 steps begins and ends 2.5e-8 off its ends."""
    inputs, small = [10 * x for x in logits(4, 9)], 1e-8
    for divergence in (
        *(AlphaMixture(a, small, c) for a in (-1.0, 0.5, 3.0) for c in COMPARISONS),
        *(AlphaMixture(a, 1 - small, c) for a in (-1.0, 0.5, 3.0) for c in COMPARISONS),
        *(JensenShannon(small), JensenShannon(1 - small)),
        *(SkewForwardKL(small), SkewReverseKL(small)),
    ):
        found = loss_and_gradient(divergence, *(x.float() for x in inputs))
        assert_same(found, loss_and_gradient(divergence, *inputs), 1e-5, divergence)

"""What holds of every divergence, whatever the logits."""

from math import log
from random import Random

import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from taidscale.losses.chunk import Chunk
from taidscale.losses.divergence import Divergence
from taidscale.losses.moments import merged
from taidscale.losses.objective import Objective
from taidscale.losses.objectives.adaptive_kl import AdaptiveKL, smallest_of_head
from taidscale.losses.objectives.alpha_mixture import AlphaMixture
from taidscale.losses.objectives.decoupled_kl import DecoupledKL
from taidscale.losses.objectives.jensen_shannon import JensenShannon
from taidscale.losses.objectives.reverse_kl import ReverseKL
from taidscale.losses.objectives.skew_kl import SkewForwardKL, SkewReverseKL
from taidscale.losses.objectives.taid import ForwardKL
from taidscale.losses.objectives.total_variation import TotalVariation
from tests.losses.test_divergences import EVERY, assert_same, logits, loss_and_gradient
from tests.ranks import on_ranks

Token = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Logits of student and teacher, [1, V] float64, and the label, [1]."""

few = settings(max_examples=25, deadline=None, derandomize=True, database=None)


@st.composite
def tokens(draw: st.DrawFn) -> Token:
    """Logits on a grid, so that a shift is exact and ties stay ties."""
    usual = st.integers(-512, 512).map(lambda k: k / 64)
    kinds = [usual, st.one_of(usual, st.sampled_from([-1000.0, 0.0, 1000.0]))]
    size = draw(st.integers(2, 40))
    student, teacher = (
        draw(st.lists(draw(st.sampled_from(kinds)), min_size=size, max_size=size)) for _ in range(2)
    )
    label = draw(st.integers(0, size - 1))
    return *torch.tensor([[student], [teacher]]).double(), torch.tensor([label])


def token_loss(divergence: Divergence, token: Token) -> tuple[float, torch.Tensor]:
    """D and its gradient."""
    total, gradient = loss_and_gradient(divergence, *token)
    return float(total), gradient


@on_ranks(1)
@few
@given(tokens())
def test_never_negative_and_finite(token: Token) -> None:
    for name, divergence in EVERY.items():
        value, gradient = token_loss(divergence, token)
        assert -1e-12 <= value < torch.inf, name
        assert gradient.isfinite().all(), name
        total, gradient = loss_and_gradient(
            divergence, token[0].float(), token[1].float(), token[2]
        )
        assert total.isfinite(), name
        assert gradient.isfinite().all(), name


@on_ranks(1)
@few
@given(tokens(), st.integers(-64_000, 64_000))
def test_zero_where_the_student_is_the_teacher(token: Token, shift: int) -> None:
    _, teacher, label = token
    for name, divergence in EVERY.items():
        for student in (teacher, teacher + shift / 64):
            value, gradient = token_loss(divergence, (student, teacher, label))
            assert abs(value) <= 1e-12, name
            assert gradient.abs().max() <= 1e-12, name


@on_ranks(1)
@few
@given(tokens(), st.integers(-64_000, 64_000), st.integers(-64_000, 64_000))
def test_a_shift_of_a_tokens_logits_changes_nothing(
    token: Token, of_student: int, of_teacher: int
) -> None:
    student, teacher, label = token
    shifted = (student + of_student / 64, teacher + of_teacher / 64, label)
    for divergence in EVERY.values():
        assert_same(token_loss(divergence, shifted), token_loss(divergence, token), of=divergence)


@on_ranks(1)
@few
@given(tokens())
def test_gradients_sum_to_zero_over_the_vocabulary(token: Token) -> None:
    for name, divergence in EVERY.items():
        _, gradient = token_loss(divergence, token)
        assert abs(gradient.sum()) <= 1e-12 * max(1.0, float(gradient.abs().max())), name


@on_ranks(1)
@few
@given(tokens(), st.randoms(use_true_random=False))
def test_the_order_of_the_vocabulary_does_not_matter(token: Token, random: Random) -> None:
    student, teacher, label = token
    order = list(range(student.shape[1]))
    random.shuffle(order)
    place = torch.tensor([order.index(int(label))])
    permuted = (student[:, order], teacher[:, order], place)
    for divergence in EVERY.values():
        if rounding_decides(divergence, token):
            continue
        value, gradient = token_loss(divergence, token)
        expected = value, gradient[:, order]
        assert_same(token_loss(divergence, permuted), expected, of=divergence)


def rounding_decides(divergence: Divergence, token: Token) -> bool:
    """Whether the token is where the divergence jumps, so that its last bit decides."""
    q, p = (x.softmax(1)[0] for x in token[:2])
    match divergence:
        case TotalVariation():
            return bool(((p - q).abs() < 1e-12).logical_and(q > 1e-14).any())
        case AdaptiveKL(mass):
            return any(abs(sum_ - mass) < 1e-9 for sum_ in p.sort(descending=True)[0].cumsum(0))
    return False


@on_ranks(1)
@few
@given(tokens())
def test_bounds_between_divergences(token: Token) -> None:
    def d(divergence: Divergence) -> float:
        return token_loss(divergence, token)[0]

    forward, reverse = d(ForwardKL()), d(ReverseKL())
    rounding = 1e-12 * max(1.0, forward, reverse)
    assert d(TotalVariation()) <= 1 + rounding
    assert d(TotalVariation()) ** 2 <= min(forward, reverse) / 2 + rounding  # Pinsker
    for mass in (0.01, 0.5, 0.99):
        adaptive = d(AdaptiveKL(mass))
        assert min(forward, reverse) - rounding <= adaptive <= max(forward, reverse) + rounding
    for share in (1e-3, 0.1, 0.9):
        assert d(SkewForwardKL(share)) <= min(-log(share), forward) + rounding
        assert d(SkewReverseKL(share)) <= min(-log(share), reverse) + rounding
        entropy = -share * log(share) - (1 - share) * log(1 - share)
        assert d(JensenShannon(share)) <= entropy + rounding
        for alpha in (-1.0, 0.5, 1.0):
            assert d(AlphaMixture(alpha, share, "teacher_to_mixture")) <= forward + rounding
        for alpha in (-1.0, 1.0):
            assert d(AlphaMixture(alpha, share, "mixture_to_student")) <= forward + rounding


@on_ranks(1)
@few
@given(tokens())
def test_decoupled_kl_with_coupled_weights_is_forward_kl(token: Token) -> None:
    _, teacher, label = token
    others = teacher.index_fill(1, label, -torch.inf).logsumexp(1)
    not_label = float((others - teacher.logsumexp(1)).exp())
    coupled = token_loss(DecoupledKL(1.0, not_label), token)
    assert_same(coupled, token_loss(ForwardKL(), token))
    binary, shape = (token_loss(DecoupledKL(*x), token) for x in ((1.0, 0.0), (0.0, 1.0)))
    summed = [x + not_label * y for x, y in zip(binary, shape, strict=True)]
    assert_same(tuple(summed), coupled)


@on_ranks(1)
@few
@given(tokens(), st.sampled_from([0.01, 0.5, 0.99]))
def test_the_head_of_adaptive_kl_is_that_of_a_sort(token: Token, mass: float) -> None:
    for dtype in (torch.float32, torch.float64):
        assert_head_is_that_of_a_sort(*token[:2], mass, dtype)


@on_ranks(1)
def test_the_head_in_a_larger_vocabulary_is_that_of_a_sort() -> None:
    for mass in (0.01, 0.5, 0.99, 0.9999):
        for dtype in (torch.float32, torch.float64):
            assert_head_is_that_of_a_sort(*logits(50, 400), mass, dtype)


def assert_head_is_that_of_a_sort(
    student: torch.Tensor, teacher: torch.Tensor, mass: float, dtype: torch.dtype
) -> None:
    """Where rounding does not decide."""
    p, smallest = probabilities_and_smallest_of_head(student.to(dtype), teacher.to(dtype), mass)
    likeliest = p.sort(1, descending=True)[0]
    sums = likeliest.double().cumsum(1)
    last = (sums < mass).sum(1, keepdim=True)
    clear = ((sums - mass).abs() > (1e-6 if dtype == torch.float32 else 1e-9)).all(1)
    assert torch.equal(smallest[clear], likeliest.gather(1, last)[clear, 0])


def probabilities_and_smallest_of_head(
    student: torch.Tensor, teacher: torch.Tensor, mass: float
) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.zeros(len(student), dtype=torch.int64)
    chunk = Chunk(student, teacher, labels, 1.0, dist.group.WORLD)
    chunk = chunk.with_moments(merged(chunk.local_moments(None)[None], 1.0))
    p = chunk.columns(slice(0, len(student))).log_p().exp()
    return p, smallest_of_head(chunk, mass)


@on_ranks(1)
def test_all_entries_are_the_head_where_rounding_keeps_their_mass_below() -> None:
    student, teacher = (x.float() for x in logits(50, 301))
    p, smallest = probabilities_and_smallest_of_head(student, teacher, 1 - 1e-12)
    head, below = p >= smallest[:, None], p.double().sum(1) < 1 - 1e-9
    assert below.any()
    assert head[below].all()


@on_ranks(1)
def test_masked_tokens_count_nothing() -> None:
    masked = torch.tensor([-100, 2, -100, 5])
    for scale in (1.0, 1000.0):
        both = [scale * x for x in logits(4, 6)]
        for name, divergence in EVERY.items():
            objective = Objective(divergence, 2.0, 0.3)
            total, gradient = loss_and_gradient(objective, *both, masked)
            assert gradient[[0, 2]].abs().max() == 0, name
            parts = [
                loss_and_gradient(objective, *(x[[i]] for x in (*both, masked))) for i in (1, 3)
            ]
            expected = parts[0][0] + parts[1][0], torch.cat([parts[0][1], parts[1][1]])
            assert_same((total, gradient[[1, 3]]), expected, of=divergence)
            total, gradient = loss_and_gradient(objective, *both, torch.full_like(masked, -100))
            assert total == 0, name
            assert gradient.abs().max() == 0, name

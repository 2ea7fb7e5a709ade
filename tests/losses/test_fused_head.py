"""The fused head against dense float64 autograd: loss and every gradient."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from taidscale.losses.fused_head import fused_head
from taidscale.losses.head_settings import HeadSettings
from taidscale.losses.objective import CROSS_ENTROPY, Objective
from taidscale.losses.objectives.alpha_mixture import AlphaMixture
from taidscale.losses.objectives.taid import Taid
from taidscale.losses.signal import HeadSignal
from taidscale.losses.vocabulary import Vocabulary
from taidscale.verification.dense import dense_losses
from tests.losses.dense import DIVERGENCES
from tests.ranks import on_ranks, run_on_ranks


@dataclass(frozen=True)
class Case:
    """What one comparison is made of. n tokens per rank; heads may be padded."""

    name: str
    vocabulary: int = 61
    student_padding: int = 0
    teacher_padding: int = 0
    tokens: int = 12
    ignored: str = "none"
    scale: float = 1.0
    chunk_tokens: int = 5
    student_softcap: float | None = None
    teacher_softcap: float | None = None
    weighted: bool = False
    overlap: bool = False
    objective: Objective = field(default_factory=lambda: Objective(Taid(0.4)))
    dtype: torch.dtype = torch.float64


OBJECTIVES = [
    *(Case(name, objective=Objective(divergence)) for name, divergence in DIVERGENCES.items()),
    Case("cross entropy", objective=CROSS_ENTROPY),
]

MIXED = [
    Case(f"{name}, mixed, τ", objective=Objective(divergence, 2.5, 0.3), ignored="uneven")
    for name, divergence in DIVERGENCES.items()
]

CASES = [
    Case("forward kl, sharpened", objective=Objective(Taid(1.0), 0.5)),
    Case("t = 0", objective=Objective(Taid(0.0))),
    Case("heads padded differently", student_padding=3, teacher_padding=11),
    Case("uneven masks", ignored="uneven"),
    Case("token weights", ignored="uneven", weighted=True),
    Case("token weights, mixed", weighted=True, objective=Objective(Taid(0.4), 1.5, 0.3)),
    Case("all masked", ignored="all"),
    Case("one token", tokens=1),
    Case("chunk of one", chunk_tokens=1),
    Case("one chunk", chunk_tokens=1000),
    Case("overlapping chunks", overlap=True),
    Case("two overlapping chunks", overlap=True, chunk_tokens=7),
    Case("one overlapping chunk", overlap=True, chunk_tokens=1000),
    Case("logits x 1,000", scale=1000.0),
    Case("soft-capped logits", student_softcap=3.0, teacher_softcap=2.0, scale=5.0),
    Case(
        "soft-capped, mixed, τ",
        student_softcap=3.0,
        teacher_softcap=2.0,
        objective=Objective(DIVERGENCES["skew reverse kl"], 1.5, 0.4),
    ),
]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("cases", [OBJECTIVES, MIXED, CASES], ids=["objectives", "mixed", "cases"])
def test_equals_dense_float64(world_size: int, cases: list[Case]) -> None:
    run_on_ranks(world_size, __name__, "compare_all", {"cases": cases, "bound": 1e-12})


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(
    ("cases", "bound"),
    [(OBJECTIVES, 1e-6), (MIXED, 1e-6), (CASES, 2e-6)],  # some have tiny gradients
    ids=["objectives", "mixed", "cases"],
)
def test_float32_is_within_rounding(world_size: int, cases: list[Case], bound: float) -> None:
    in_float32 = [replace(case, dtype=torch.float32) for case in cases if case.scale == 1.0]
    run_on_ranks(world_size, __name__, "compare_all", {"cases": in_float32, "bound": bound})


def compare_all(cases: list[Case], bound: float) -> None:
    """On each rank: every case within `bound`; the first rank prints the table."""
    size = dist.get_world_size()
    for case in cases:
        errors = relative_errors(case)
        worst = torch.tensor([*errors.values()], dtype=torch.float64)
        dist.all_reduce(worst, dist.ReduceOp.MAX)
        loss, d_hidden, d_head, *sums = worst.tolist()
        if dist.get_rank() == 0:
            print(
                f"T={size} {str(case.dtype)[6:]}  {case.name:32s} loss {loss:.1e}  "
                f"d hidden {d_hidden:.1e}  d head {d_head:.1e}  sums {max(sums):.1e}",
                flush=True,
            )
        assert worst.max() < bound, (case.name, errors)


def relative_errors(case: Case) -> dict[str, float]:
    """Largest error of a quantity over its largest entry, the reference being dense float64."""
    torch.use_deterministic_algorithms(True)  # fills new buffers with NaN: padding must not count
    rank, size = dist.get_rank(), dist.get_world_size()
    inputs = make_inputs(case, size)
    reference = dense_reference(case, **inputs)

    vocabulary = Vocabulary.split(case.vocabulary, rank, size)
    hidden = inputs["hidden"].to(case.dtype).chunk(size)[rank].clone().requires_grad_()
    weight = inputs["weight"].to(case.dtype).requires_grad_()
    teacher = HeadSignal(
        inputs["teacher_hidden"].to(case.dtype),
        inputs["teacher_weight"].to(case.dtype)[vocabulary.rows],
        case.teacher_softcap,
    )
    settings = HeadSettings(
        vocabulary,
        dist.group.WORLD,
        chunk_tokens=case.chunk_tokens,
        softcap=case.student_softcap,
        overlap=case.overlap,
    )
    total, sums = fused_head(
        hidden,
        weight,
        inputs["labels"].chunk(size)[rank],
        teacher,
        case.objective,
        settings,
        token_weights=inputs["factors"].chunk(size)[rank] if case.weighted else None,
    )
    (total * 0.5).backward()  # a factor, so that the incoming gradient is not 1
    d_weight = weight.grad.clone()
    dist.all_reduce(d_weight)
    values = torch.stack([sums[name] for name in sorted(sums)])
    dist.all_reduce(values)
    own = reference["d_hidden"].chunk(size)[rank]
    return {
        "loss": _relative(total, reference["loss"]),
        "d_hidden": _relative(hidden.grad * 2, own, scale=reference["d_hidden"]),
        "d_head": _relative(d_weight * 2, reference["d_weight"]),
        **{
            # A KL is the difference of a cross entropy and an entropy: its rounding is theirs.
            f"Σ{name}": _relative(value, reference[name], scale=reference["teacher_cross_entropy"])
            for name, value in zip(sorted(sums), values, strict=True)
            if name != "loss"
        },
    }


def make_inputs(case: Case, size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    count, d_s, d_t = case.tokens * size, 10, 14

    def normal(*shape: int, scale: float) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return values.to(case.dtype).double()  # rounded for the reference too

    labels = torch.randint(0, case.vocabulary, (count,), generator=generator)
    match case.ignored:
        case "all":
            labels[:] = -100
        case "uneven":
            labels[: count // 2] = -100
            labels[-1] = -100
    return {
        "hidden": normal(count, d_s, scale=case.scale),
        "weight": normal(case.vocabulary + case.student_padding, d_s, scale=0.3),
        "teacher_hidden": normal(count, d_t, scale=case.scale),
        "teacher_weight": normal(case.vocabulary + case.teacher_padding, d_t, scale=0.3),
        "labels": labels,
        "factors": torch.rand(count, generator=generator).double() + 0.5,
    }


def dense_reference(
    case: Case,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    teacher_hidden: torch.Tensor,
    teacher_weight: torch.Tensor,
    labels: torch.Tensor,
    factors: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Full logits, padded columns at -inf, autograd."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    objective, real = case.objective, case.vocabulary

    def logits(h: torch.Tensor, w: torch.Tensor, cap: float | None) -> torch.Tensor:
        z = h @ w.t()
        return (z if cap is None else cap * torch.tanh(z / cap))[:, :real]

    z_s = logits(hidden, weight, case.student_softcap)
    z_t = logits(teacher_hidden, teacher_weight, case.teacher_softcap)
    tau, valid = objective.temperature, labels != -100
    tokens = dense_losses(objective, z_s, z_t, labels)
    loss = (tokens * factors if case.weighted else tokens).sum()
    loss.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    nll = torch.nn.functional.cross_entropy(z_s, labels, reduction="none", ignore_index=-100)
    log_s, log_t = z_s.detach().log_softmax(1), z_t.log_softmax(1)
    d = torch.zeros_like(tokens)
    if objective.divergence is not None:
        d = dense_losses(Objective(objective.divergence, tau), z_s, z_t, labels) / tau**2
    log_q = (z_s.detach() / tau).log_softmax(1)
    p = torch.zeros_like(log_q)
    if isinstance(objective.divergence, Taid):
        t = objective.divergence.t
        p = (((1 - t) * z_s.detach() + t * z_t) / tau).softmax(1)
    elif isinstance(objective.divergence, AlphaMixture):
        p = objective.divergence.dense_mixture((z_t / tau).log_softmax(1), log_q)
    safe = labels.clamp(min=0)[:, None]
    return {
        "loss": loss.detach(),
        "d_hidden": hidden.grad,
        "d_weight": weight.grad,
        "divergence": d[valid].sum().detach(),
        "mixture_kl": d[valid].sum().detach(),
        "mixture_cross_entropy": -(p * log_q).sum(1)[valid].sum().detach(),
        "teacher_cross_entropy": -(log_t.exp() * log_s).sum(1)[valid].sum(),
        "next_token_loss": nll.sum().detach(),
        "student_entropy": -(log_s.exp() * log_s).sum(1)[valid].sum(),
        "teacher_entropy": -(log_t.exp() * log_t).sum(1)[valid].sum(),
        "teacher_kl": (log_t.exp() * (log_t - log_s)).sum(1)[valid].sum(),
        "teacher_next_token_loss": -log_t.gather(1, safe)[:, 0][valid].sum(),
    }


def _relative(value: Any, reference: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    assert torch.isfinite(value).all()
    largest = (reference if scale is None else scale).abs().max()
    error = (value.detach().double() - reference).abs().max()
    return float(error if largest < 1e-12 else error / largest)  # a zero is compared absolutely


@on_ranks(1)
def test_teacher_is_not_needed_for_cross_entropy() -> None:
    case = Case("alone", objective=CROSS_ENTROPY)
    inputs = make_inputs(case, 1)
    reference = dense_reference(case, **inputs)
    hidden, weight = inputs["hidden"].requires_grad_(), inputs["weight"].requires_grad_()
    settings = HeadSettings(Vocabulary.split(61, 0, 1), dist.group.WORLD, chunk_tokens=4)
    total, _ = fused_head(hidden, weight, inputs["labels"], None, case.objective, settings)
    total.backward()
    torch.testing.assert_close(total, reference["loss"])
    torch.testing.assert_close(hidden.grad, reference["d_hidden"])
    torch.testing.assert_close(weight.grad, reference["d_weight"])


@on_ranks(2)
def test_agreement_counts_equal_likeliest_tokens() -> None:
    case = Case("agreement", vocabulary=7, tokens=40)
    inputs = make_inputs(case, 2)
    rank = dist.get_rank()
    vocabulary = Vocabulary.split(7, rank, 2)
    teacher = HeadSignal(inputs["teacher_hidden"], inputs["teacher_weight"][vocabulary.rows])
    settings = HeadSettings(vocabulary, dist.group.WORLD, chunk_tokens=9)
    with torch.no_grad():
        _, sums = fused_head(
            inputs["hidden"].chunk(2)[rank],
            inputs["weight"],
            inputs["labels"].chunk(2)[rank],
            teacher,
            case.objective,
            settings,
            with_agreement=True,
        )
    count = sums["top1_agreement"]
    dist.all_reduce(count)
    best = (inputs["hidden"] @ inputs["weight"].t()).argmax(1)
    best_teacher = (inputs["teacher_hidden"] @ inputs["teacher_weight"].t()).argmax(1)
    assert 0 < count == (best == best_teacher).sum() < 80


@on_ranks(1)
def test_wrong_shapes_are_named() -> None:
    settings = HeadSettings(Vocabulary.split(8, 0, 1), dist.group.WORLD, chunk_tokens=4)
    hidden, weight, labels = torch.zeros(3, 2), torch.zeros(7, 2), torch.zeros(3).long()
    with pytest.raises(ValueError, match="head has 7 rows, the vocabulary 8"):
        fused_head(hidden, weight, labels, None, CROSS_ENTROPY, settings)
    with pytest.raises(ValueError, match="3 hidden states, 2 labels"):
        fused_head(hidden, torch.zeros(8, 2), labels[:2], None, CROSS_ENTROPY, settings)
    teacher = HeadSignal(torch.zeros(3, 2), torch.zeros(7, 2))
    with pytest.raises(ValueError, match="do not fit 3 tokens and 8 columns"):
        fused_head(hidden, torch.zeros(8, 2), labels, teacher, CROSS_ENTROPY, settings)
    with pytest.raises(ValueError, match="cannot be split over 4 ranks"):
        Vocabulary.split(3, 0, 4)

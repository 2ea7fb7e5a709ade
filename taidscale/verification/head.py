"""Do the vocabulary-parallel loss and its gradients equal dense ones in float64?

Shapes: n tokens of this rank, N = T·n tokens of its tp_group, V vocabulary entries, v those of this
rank, Ds and Dt hidden sizes.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from taidscale.labels import IGNORED
from taidscale.losses.fused_head import fused_head
from taidscale.losses.head_settings import HeadSettings
from taidscale.losses.objective import Objective
from taidscale.losses.signal import HeadSignal
from taidscale.losses.vocabulary import Vocabulary
from taidscale.parallel.grid import Grid, make_grid
from taidscale.verification.dense import dense_losses
from taidscale.verification.finding import Finding, relative_error, where

GROUP_TOKENS = 64
"""N at least, whatever V is: [N, V] in float64 has 78 MB with V = 151,665."""
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Relative error, by the coarsest type. Rounding to bf16 costs 1.5e-2 with V = 151,665 and hidden
sizes of 1,536 and 5,120; a factor or a term that is wrong costs far more than the bound.
"""
_BLOCK_ROWS = 4096
_NAMES = ("loss", "d loss / d hidden", "d loss / d head")


@dataclass(frozen=True)
class HeadSizes:
    """Those of the run."""

    vocabulary: int
    student: int
    """Ds."""
    teacher: int | None
    """Dt; None without a teacher."""
    dtype: torch.dtype
    """Of the student."""
    teacher_dtype: torch.dtype
    chunk_tokens: int | None
    student_softcap: float | None = None
    teacher_softcap: float | None = None


@dataclass(frozen=True)
class _Inputs:
    """Of a whole tp_group, equal on all its ranks."""

    hidden: torch.Tensor
    """[N, Ds]."""
    labels: torch.Tensor
    """[N]."""
    teacher_hidden: torch.Tensor | None
    """[N, Dt]."""


_Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""The group's loss; [n, Ds] and [v, Ds], this rank's part of both gradients."""


def check_head(objective: Objective, sizes: HeadSizes, grid: Grid) -> list[Finding]:
    """Compare on random weights and hidden states of the run's sizes. All ranks call it.

    Cost: that of `fused_head` for N tokens, and of the same in float64 on every rank.
    Memory: the student's head and its gradient, and about ten times [N, V] in float64.
    """
    inputs = _make_inputs(sizes, grid)
    expected = _dense(objective, sizes, inputs, grid)
    found = _fused(objective, sizes, inputs, grid)
    kinds = [sizes.dtype, sizes.teacher_dtype] if sizes.teacher else [sizes.dtype]
    bound, kind = max((BOUNDS[kind], str(kind).removeprefix("torch.")) for kind in kinds)
    hosts = grid.gather(socket.gethostname())
    errors = grid.gather_floats(
        *(relative_error(own, right) for own, right in zip(found, expected, strict=True))
    )
    alone_is_right = None
    if grid.tp_size > 1 and not max(max(own) for own in errors) <= bound:
        alone_is_right = _right_alone(objective, sizes, inputs, grid, bound)
    findings = []
    for place, name in enumerate(_NAMES):
        of_ranks = [own[place] for own in errors]
        culprit = None
        if not max(of_ranks) <= bound:
            said = _culprit(found[place], expected[place], grid.tp_size, bound, alone_is_right)
            said = grid.gather(said)[of_ranks.index(max(of_ranks))]
            culprit = f"{said}, {where(of_ranks, bound, hosts)}"
        label = f"{name}, V {sizes.vocabulary:,}, T {grid.tp_size}, {kind}"
        findings.append(Finding(label, f"{max(of_ranks):.1e}", f"{bound:.0e}", culprit))
    return findings


def _culprit(
    found: torch.Tensor, expected: torch.Tensor, tp_size: int, bound: float, alone: bool | None
) -> str:
    """What kind of mistake it is."""
    found, expected = found.double(), expected.double()
    factor = float((found * expected).sum() / (expected * expected).sum())
    is_factor = relative_error(found, factor * expected) <= bound * abs(factor)
    if is_factor and tp_size > 1 and abs(factor / tp_size - 1) < bound:
        return f"it is T = {tp_size} times too large: summed over the tp_group once too often"
    if is_factor and tp_size > 1 and abs(factor * tp_size - 1) < bound:
        return f"it is T = {tp_size} times too small: averaged over the tp_group, not summed"
    if is_factor and abs(factor - 1) > bound:
        return f"it is {factor:.4g} times what is right: a factor is wrong"
    if alone:
        return (
            f"it is right on one rank and wrong over T = {tp_size}: a term of the other ranks' "
            "part of the vocabulary is dropped, or the tp_group's collectives are wrong"
        )
    return "it is wrong on one rank alone: the loss, a kernel or the device computes wrong"


def _right_alone(
    objective: Objective, sizes: HeadSizes, inputs: _Inputs, grid: Grid, bound: float
) -> bool:
    """Whether the same is right where each rank computes the whole vocabulary by itself.

    Cost: groups of one rank each.
    """
    single = make_grid(1, grid.device)
    found = _fused(objective, sizes, inputs, single)
    expected = _dense(objective, sizes, inputs, single)
    own = max(relative_error(a, b) for a, b in zip(found, expected, strict=True))
    return all(error <= bound for (error,) in grid.gather_floats(own))


def _make_inputs(sizes: HeadSizes, grid: Grid) -> _Inputs:
    num_tokens = -(-GROUP_TOKENS // grid.tp_size) * grid.tp_size
    generator = torch.Generator(grid.device).manual_seed(1_000 + grid.data.index)

    def normal(size: int, dtype: torch.dtype) -> torch.Tensor:
        shape = (num_tokens, size)
        return torch.randn(shape, generator=generator, device=grid.device).to(dtype)

    labels = torch.randint(sizes.vocabulary, (num_tokens,), generator=generator, device=grid.device)
    labels[::7] = IGNORED
    teacher = normal(sizes.teacher, sizes.teacher_dtype) if sizes.teacher else None
    return _Inputs(normal(sizes.student, sizes.dtype), labels, teacher)


def _head_rows(
    seed: int, rows: slice, size: int, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Random rows of a head, block by block: each rank can make any of them, none holds all.

    Logits of normal hidden states have standard deviation 2.
    """
    for first in range(rows.start // _BLOCK_ROWS * _BLOCK_ROWS, rows.stop, _BLOCK_ROWS):
        generator = torch.Generator(device).manual_seed(seed + first)
        block = torch.randn((_BLOCK_ROWS, size), generator=generator, device=device)
        part = slice(max(first, rows.start), min(first + _BLOCK_ROWS, rows.stop))
        block = block[part.start - first : part.stop - first]
        yield part, (block * (2 / size**0.5)).to(dtype)


_STUDENT_SEED, _TEACHER_SEED = 1, 2_000_000_000


def _fused(objective: Objective, sizes: HeadSizes, inputs: _Inputs, grid: Grid) -> _Gradients:
    """What a training step does."""
    vocabulary = Vocabulary.split(sizes.vocabulary, grid.tp_rank, grid.tp_size)
    mine = _own_tokens(inputs, grid)
    device = inputs.hidden.device
    weight = torch.cat(
        [
            block
            for _, block in _head_rows(
                _STUDENT_SEED, slice(0, sizes.vocabulary), sizes.student, sizes.dtype, device
            )
        ]
    ).requires_grad_()
    hidden = inputs.hidden[mine].clone().requires_grad_()
    teacher = None
    if inputs.teacher_hidden is not None:
        assert sizes.teacher is not None
        blocks = _head_rows(
            _TEACHER_SEED, vocabulary.rows, sizes.teacher, sizes.teacher_dtype, device
        )
        rows = torch.cat([block for _, block in blocks])
        teacher = HeadSignal(inputs.teacher_hidden, rows, sizes.teacher_softcap)
    settings = HeadSettings(
        vocabulary,
        grid.tp_group,
        chunk_tokens=sizes.chunk_tokens or max(1, len(inputs.hidden) // 3),  # several chunks
        softcap=sizes.student_softcap,
    )
    total, _ = fused_head(hidden, weight, inputs.labels[mine], teacher, objective, settings)
    torch.autograd.backward(total)
    assert hidden.grad is not None
    assert weight.grad is not None
    return total.detach(), hidden.grad, weight.grad[vocabulary.rows]


def _dense(objective: Objective, sizes: HeadSizes, inputs: _Inputs, grid: Grid) -> _Gradients:
    """The same with full logits, in float64, on this rank alone."""
    vocabulary = Vocabulary.split(sizes.vocabulary, grid.tp_rank, grid.tp_size)
    whole = slice(0, sizes.vocabulary)
    device = inputs.hidden.device
    hidden = inputs.hidden.double()
    student = (_STUDENT_SEED, whole, sizes.student, sizes.dtype, device)
    raw = torch.cat([hidden @ rows.double().t() for _, rows in _head_rows(*student)], 1)
    raw.requires_grad_()
    z_t = None
    if inputs.teacher_hidden is not None:
        assert sizes.teacher is not None
        seen = inputs.teacher_hidden.double()
        teacher = (_TEACHER_SEED, whole, sizes.teacher, sizes.teacher_dtype, device)
        z_t = torch.cat([seen @ rows.double().t() for _, rows in _head_rows(*teacher)], 1)
        z_t = _capped(z_t, sizes.teacher_softcap)
    losses = dense_losses(objective, _capped(raw, sizes.student_softcap), z_t, inputs.labels)
    total = losses.sum()
    (d_raw,) = torch.autograd.grad(total, raw)
    d_hidden = torch.zeros_like(hidden)
    for part, rows in _head_rows(*student):
        d_hidden += d_raw[:, part] @ rows.double()
    d_rows = d_raw[:, vocabulary.rows].t() @ hidden
    return total.detach(), d_hidden[_own_tokens(inputs, grid)], d_rows


def _own_tokens(inputs: _Inputs, grid: Grid) -> slice:
    own = len(inputs.hidden) // grid.tp_size
    return slice(grid.tp_rank * own, (grid.tp_rank + 1) * own)


def _capped(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)

"""The student's head and the loss in one: vocabulary-parallel, chunked, gradients in forward.

Shapes: n tokens of this rank, N = T·n tokens of its tp_group, C tokens of a chunk, V real
vocabulary entries, v those of this rank, Ds and Dt hidden sizes.

The full [N, V] logits never exist: a rank holds its v columns of the logits of C tokens, of
student and teacher, and the gradient overwrites the student's. What the loss needs beyond
its columns are a few sums per token.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from taidscale.losses.interpolation import (
    Columns,
    Objective,
    local_maxima,
    local_sums,
    logit_gradient,
    token_losses,
)
from taidscale.losses.vocabulary import Vocabulary
from taidscale.parallel.collectives import all_gather_rows, all_reduce_, reduce_scatter_rows

IGNORED = -100
"""Label of a token that has no loss, as everywhere in the field."""


@dataclass(frozen=True)
class TeacherTokens:
    """What the loss needs of the teacher."""

    hidden: torch.Tensor
    """[N, Dt], equal on all ranks of the tp_group."""
    head_rows: torch.Tensor
    """[v, Dt], this rank's rows of its head."""
    softcap: float | None = None
    """Gemma 2's bound on logits: cap·tanh(z / cap)."""


@dataclass(frozen=True)
class HeadSettings:
    """How the fused head computes; equal on all ranks of the tp_group."""

    vocabulary: Vocabulary
    group: dist.ProcessGroup
    chunk_tokens: int
    softcap: float | None = None
    """Gemma 2's bound on the student's logits."""


def fused_head(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    teacher: TeacherTokens | None,
    objective: Objective,
    settings: HeadSettings,
    *,
    with_agreement: bool = False,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of this tp_group's tokens, and its gradients, from hidden states.

    `total` has the same value on all ranks of the group, so the factor by which it is
    multiplied before backward must be the same too; then the gradient of `hidden` is that of
    the group's summed loss, and the gradient of `weight` is this rank's rows of it, with
    zeros elsewhere: summing over ranks gives the whole.

    Args:
        hidden: [n, Ds], the last hidden states of this rank's tokens.
        weight: [at least V, Ds], the student's whole head.
        labels: [n] int64, the next token, `IGNORED` where there is no loss.
        teacher: absent where the loss is cross entropy alone.
        objective: what to minimise.
        settings: the vocabulary, the group and the chunks.
        with_agreement: also sum `top1_agreement`, whether both models' likeliest tokens are
            the same (the lowest index where several are equally likely).

    Returns:
        `total`, a scalar: the loss summed over the valid tokens of the whole tp_group, which
        carries the gradient; and by name (`interpolation.token_losses`) float64 scalars
        without gradient: sums over the valid tokens of this rank alone, so that a sum over
        the world counts each token once.

    Raises:
        ValueError: if a head is smaller than the vocabulary, or shapes disagree.

    Cost: forward, an all-gather of [N, Ds] and of [N]; per chunk one all-reduce MAX of [3, C]
    and one SUM of [11, C] ([1, C] and [3, C] without teacher; one MIN of [2, C] more for
    agreement); at the end a reduce-scatter of [N, Ds] in float32. Backward, nothing.
    Memory: two [C, v] and [N, Ds] in the models' types and [N, Ds] in float32 while it runs;
    [v, Ds] and [n, Ds] in float32 until backward, which makes the whole head's gradient.
    """
    _check(hidden, weight, labels, teacher, settings)
    with_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    with torch.no_grad():
        run = _Run(hidden, weight, labels, teacher, objective, settings, with_gradient)
        for start in range(0, len(run.labels), settings.chunk_tokens):
            run.add_chunk(slice(start, start + settings.chunk_tokens), with_agreement)
        sums, total = run.sums()
        if not with_gradient:
            return total, sums
        d_hidden = reduce_scatter_rows(run.d_hidden, settings.group)
    total = _StoredGradient.apply(
        hidden, weight, total, d_hidden, run.d_rows, settings.vocabulary.rows
    )
    return total, sums


class _StoredGradient(torch.autograd.Function):
    """Hands out gradients that were computed in forward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        total: torch.Tensor,
        d_hidden: torch.Tensor,
        d_rows: torch.Tensor,
        rows: slice,
    ) -> torch.Tensor:
        ctx.save_for_backward(d_hidden, d_rows)
        ctx.rows, ctx.hidden, ctx.weight = rows, hidden.dtype, (weight.shape, weight.dtype)
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (factor,) = gradients
        d_hidden, d_rows = ctx.saved_tensors
        shape, dtype = ctx.weight
        # ZeRO-3 wants the gradient of the whole weight, also where this rank has no part in it.
        d_weight = torch.zeros(shape, dtype=dtype, device=d_rows.device)
        torch.mul(d_rows, factor, out=d_weight[ctx.rows])
        return (d_hidden * factor).to(ctx.hidden), d_weight, None, None, None, None


class _Run:
    """The state of one pass over the chunks."""

    def __init__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        teacher: TeacherTokens | None,
        objective: Objective,
        settings: HeadSettings,
        with_gradient: bool,
    ) -> None:
        self.hidden = all_gather_rows(hidden.detach(), settings.group)
        self.labels = all_gather_rows(labels, settings.group)
        self.weight_rows = weight.detach()[settings.vocabulary.rows]
        self.teacher, self.objective, self.settings = teacher, objective, settings
        self.tokens: list[dict[str, torch.Tensor]] = []
        chunk = min(settings.chunk_tokens, len(self.labels))
        columns = len(self.weight_rows)
        self.student_logits = hidden.new_empty(chunk, columns)
        if teacher is not None:
            self.teacher_logits = teacher.hidden.new_empty(chunk, columns)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        if with_gradient:
            self.d_hidden = torch.empty_like(self.hidden, dtype=wide)
            self.d_rows = torch.zeros_like(self.weight_rows, dtype=wide)
        self.with_gradient = with_gradient

    def add_chunk(self, chunk: slice, with_agreement: bool) -> None:
        """Losses of one chunk's tokens, and what they add to the gradients."""
        labels = self.labels[chunk]
        columns = self._logits(chunk, labels - self.settings.vocabulary.start)
        group, objective = self.settings.group, self.objective
        blocks = _row_blocks(columns.student)
        maxima = torch.cat([local_maxima(columns.rows(b), objective) for b in blocks], 1)
        if with_agreement:
            agreement = self._agreement(columns, maxima)
        maxima = all_reduce_(maxima, dist.ReduceOp.MAX, group)
        sums = torch.cat([local_sums(columns.rows(b), maxima[:, b], objective) for b in blocks], 1)
        sums = all_reduce_(sums, dist.ReduceOp.SUM, group)
        tokens = token_losses(sums, objective)
        if with_agreement:
            tokens["top1_agreement"] = agreement
        self.tokens.append(tokens)
        if not self.with_gradient:
            return
        valid = labels != IGNORED
        for b in blocks:
            narrow = columns.rows(b)
            d_logits = logit_gradient(narrow, maxima[:, b], sums[:, b], objective)
            if (cap := self.settings.softcap) is not None:
                d_logits.mul_(1 - (narrow.student / cap).square_())
            d_logits.mul_(valid[b, None])
            columns.student[b] = d_logits
        d_logits, hidden = columns.student, self.hidden[chunk]
        if d_logits.dtype == self.d_rows.dtype:
            torch.mm(d_logits, self.weight_rows, out=self.d_hidden[chunk])
            self.d_rows.addmm_(d_logits.t(), hidden)
        else:
            self.d_hidden[chunk] = d_logits @ self.weight_rows
            self.d_rows += d_logits.t() @ hidden

    def sums(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Sums over the valid tokens of this rank, and the group's summed loss."""
        valid = self.labels != IGNORED
        tp_rank = dist.get_rank(self.settings.group)
        own = len(valid) // dist.get_world_size(self.settings.group)
        mine = slice(tp_rank * own, (tp_rank + 1) * own)
        tokens = {
            name: torch.cat([chunk[name] for chunk in self.tokens]).double().where(valid, 0.0)
            for name in self.tokens[0]
        }
        return {name: values[mine].sum() for name, values in tokens.items()}, tokens["loss"].sum()

    def _logits(self, chunk: slice, labels: torch.Tensor) -> Columns:
        """This rank's columns of both models' logits, in buffers that every chunk reuses."""
        size = len(labels)
        student = torch.mm(self.hidden[chunk], self.weight_rows.t(), out=self.student_logits[:size])
        _softcap_(student, self.settings.softcap)
        teacher = None
        if self.teacher is not None:
            hidden, rows = self.teacher.hidden[chunk], self.teacher.head_rows
            teacher = torch.mm(hidden, rows.t(), out=self.teacher_logits[:size])
            _softcap_(teacher, self.teacher.softcap)
        return Columns(student, teacher, labels)

    def _agreement(self, columns: Columns, local_max: torch.Tensor) -> torch.Tensor:
        """[C], 1 where the likeliest tokens of both models are the same; before `local_max` is
        reduced.
        """
        assert columns.teacher is not None
        vocabulary, group = self.settings.vocabulary, self.settings.group
        best = local_max[:2].clone()
        all_reduce_(best, dist.ReduceOp.MAX, group)
        indices = torch.stack([columns.student.argmax(1), columns.teacher.argmax(1)])
        indices = torch.where(local_max[:2] == best, indices + vocabulary.start, vocabulary.size)
        student, teacher = all_reduce_(indices, dist.ReduceOp.MIN, group)
        return torch.eq(student, teacher).to(local_max.dtype)


def _softcap_(logits: torch.Tensor, cap: float | None) -> None:
    if cap is not None:
        logits.div_(cap).tanh_().mul_(cap)


def _row_blocks(logits: torch.Tensor) -> list[slice]:
    """Tokens that the elementwise arithmetic sees at once, so that its temporaries stay small:
    within a CPU's cache; on a GPU within 256 MiB a temporary.
    """
    elements = 2**26 if logits.is_cuda else 2**20
    rows = max(1, elements // logits.shape[1])
    return [slice(start, min(start + rows, len(logits))) for start in range(0, len(logits), rows)]


def _check(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    teacher: TeacherTokens | None,
    settings: HeadSettings,
) -> None:
    vocabulary = settings.vocabulary
    if weight.shape[0] < vocabulary.size:
        raise ValueError(
            f"the student's head has {weight.shape[0]} rows, the vocabulary {vocabulary.size}"
        )
    if hidden.shape[0] != labels.shape[0]:
        raise ValueError(f"{hidden.shape[0]} hidden states, {labels.shape[0]} labels")
    if teacher is None:
        return
    tokens = hidden.shape[0] * dist.get_world_size(settings.group)
    columns = vocabulary.stop - vocabulary.start
    if teacher.hidden.shape[0] != tokens or teacher.head_rows.shape[0] != columns:
        raise ValueError(
            f"teacher: hidden {tuple(teacher.hidden.shape)} and head rows "
            f"{tuple(teacher.head_rows.shape)} do not fit {tokens} tokens and {columns} columns"
        )

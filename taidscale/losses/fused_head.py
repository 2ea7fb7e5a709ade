"""The student's head and the loss in one: vocabulary-parallel, chunked, gradients in forward.

Shapes: n tokens of this rank, N = T·n tokens of its tp_group, C tokens of a chunk, V real
vocabulary entries, v those of this rank, Ds the student's hidden size.

The full [N, V] logits never exist: a rank holds its v columns of the logits of C tokens, of
student and teacher, and the gradient overwrites the student's. What the loss needs beyond
its columns are a few sums per token.
"""

from typing import Any

import torch
import torch.distributed as dist

from taidscale.labels import IGNORED
from taidscale.losses.chunk_loop import ChunkLoop
from taidscale.losses.head_settings import HeadSettings
from taidscale.losses.objective import Objective
from taidscale.losses.signal import TeacherSignal
from taidscale.parallel.collectives import all_gather_rows, reduce_scatter_rows


def fused_head(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    teacher: TeacherSignal | None,
    objective: Objective,
    settings: HeadSettings,
    *,
    token_weights: torch.Tensor | None = None,
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
        labels: [n] int64, the next token, below V; `IGNORED` where there is no loss.
        teacher: absent where the loss is cross entropy alone.
        objective: what to minimise.
        settings: the vocabulary, the group and the chunks.
        token_weights: [n] float, factors of the tokens' losses; 1 by default. The caller
            divides by what it takes for the number of tokens.
        with_agreement: also sum `top1_agreement`, whether both models' likeliest tokens are
            the same (the lowest index where several are equally likely).

    Returns:
        `total`, a scalar: the weighted loss summed over the valid tokens of the whole tp_group,
        which carries the gradient; and by name float64 scalars without gradient, sums over the
        valid tokens of this rank alone, so that a sum over the world counts each token once:
        `loss`, weighted; `divergence`, D at τ without weight or τ²; what an adaptive t
        follows (`Divergence.signals`); and the tokens of `moments.Moments`.

    Raises:
        ValueError: if a head is smaller than the vocabulary, or shapes disagree.

    Cost: forward, an all-gather of [N, Ds] and of [N], of another [N] with weights; per chunk
    one all-gather of [k, C], k = 15 with TAID and forward KL, 11 with another divergence, 4
    without teacher, 2 more for agreement, and what the divergence's `statistics` add; at the
    end a reduce-scatter of [N, Ds] in float32. Backward, nothing.
    Memory: two [C, v] (four with overlap) and [N, Ds] in the models' types, [N, Ds] in float32 and,
    without kernels, some blocks of `chunking.BLOCK_ELEMENTS`, while it runs; [v, Ds] and [n, Ds] in
    float32 until backward, which makes the whole head's gradient.
    """
    _check(hidden, weight, labels, teacher, token_weights, settings)
    if teacher is None and (objective.divergence is not None or with_agreement):
        raise ValueError("a divergence from the teacher, or agreement with it, needs a teacher")
    with_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    group = settings.group
    with torch.no_grad():
        all_labels = all_gather_rows(labels, group)
        factors = (all_labels != IGNORED).to(torch.promote_types(hidden.dtype, torch.float32))
        if token_weights is not None:
            factors = factors * all_gather_rows(token_weights.to(factors), group)
        loop = ChunkLoop(
            all_gather_rows(hidden.detach(), group),
            weight.detach()[settings.vocabulary.rows],
            all_labels,
            factors,
            teacher,
            objective,
            settings,
        )
        tokens = loop.run(with_gradient, with_agreement)
        total, sums = _sums(tokens, all_labels != IGNORED, group)
        if not with_gradient:
            return total, sums
        d_hidden = reduce_scatter_rows(loop.d_hidden, group)
    total = _StoredGradient.apply(
        hidden, weight, total, d_hidden, loop.d_rows, settings.vocabulary.rows
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
        if d_rows.shape == shape and d_rows.dtype == dtype:
            d_weight = d_rows.mul_(factor)  # in place; autograd refuses a second backward
        else:
            # ZeRO-3 wants the gradient of the whole weight, also where this rank has no part in it.
            d_weight = torch.zeros(shape, dtype=dtype, device=d_rows.device)
            torch.mul(d_rows, factor, out=d_weight[ctx.rows])
        return (d_hidden * factor).to(ctx.hidden), d_weight, None, None, None, None


def _sums(
    tokens: dict[str, torch.Tensor], valid: torch.Tensor, group: dist.ProcessGroup
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The group's summed loss, and sums over the valid tokens of this rank."""
    own = len(valid) // dist.get_world_size(group)
    mine = slice(dist.get_rank(group) * own, (dist.get_rank(group) + 1) * own)
    wide = {name: values.double().where(valid, 0.0) for name, values in tokens.items()}
    return wide["loss"].sum(), {name: values[mine].sum() for name, values in wide.items()}


def _check(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    teacher: TeacherSignal | None,
    token_weights: torch.Tensor | None,
    settings: HeadSettings,
) -> None:
    vocabulary = settings.vocabulary
    if weight.shape[1] != hidden.shape[1] or not len(hidden):
        raise ValueError(f"hidden {tuple(hidden.shape)} does not fit a head {tuple(weight.shape)}")
    if weight.shape[0] < vocabulary.size:
        raise ValueError(
            f"the student's head has {weight.shape[0]} rows, the vocabulary {vocabulary.size}"
        )
    if hidden.shape[0] != labels.shape[0]:
        raise ValueError(f"{hidden.shape[0]} hidden states, {labels.shape[0]} labels")
    if token_weights is not None and token_weights.shape != labels.shape:
        raise ValueError(
            f"token_weights has shape {tuple(token_weights.shape)}, labels {tuple(labels.shape)}"
        )
    if teacher is None:
        return
    tokens = hidden.shape[0] * dist.get_world_size(settings.group)
    columns = vocabulary.stop - vocabulary.start
    if teacher.num_tokens != tokens or teacher.num_columns != columns:
        raise ValueError(
            f"teacher: logits of {teacher.num_tokens} tokens in {teacher.num_columns} columns do "
            f"not fit {tokens} tokens and {columns} columns"
        )

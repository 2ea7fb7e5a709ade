"""Triton kernels of the arithmetic on logits; each reads them once.

They compute what `moments.local_moments`, `Separable.statistics` and
`ChunkLoop._block_gradient` compute, from tensors and numbers alone: in float32, on logits of 16
or 32 bits, without temporaries of the logits' size. One pass for the moments, one more for the
sums of a separable divergence, one that overwrites the student's logits with the gradient.
`TRITON_INTERPRET=1` runs them on a CPU.

Shapes: C tokens, v columns of this rank. Both models' logits have rows of the same stride, a
multiple of 64, so that loads are wide whatever v is.
"""

from dataclasses import dataclass

import torch
import triton

from taidscale.losses import kernel_code, moments

MOST_COLUMNS = 2048
"""Columns of a token in registers at once."""


@dataclass(frozen=True)
class Logits:
    """What every kernel reads."""

    student: torch.Tensor
    """[C, v]."""
    teacher: torch.Tensor | None
    """[C, v], where there is a teacher."""
    temperature: float
    """τ."""

    @property
    def teacher_or_student(self) -> torch.Tensor:
        """A kernel that does not read the teacher's still takes an address."""
        return self.student if self.teacher is None else self.teacher


@dataclass(frozen=True)
class Slope:
    """The derivative of a loss by the student's logits, up to each token's factor."""

    divergence_weight: float
    """Of D: (1-w)·τ²."""
    cross_entropy_weight: float
    """w."""
    softcap: float | None
    """Of the student's logits."""
    t: float | None = None
    """The teacher's share, where D compares with an interpolation."""
    terms: str | None = None
    """The function in `kernel_code` that gives f and its slope, where D is Σ f."""
    parameter: float = 0.0
    """Of f."""


def local_moments(logits: Logits, labels: torch.Tensor, t: float | None) -> torch.Tensor:
    """Sums over this rank's columns, [k, C] float32; see `moments.local_moments`."""
    num_tokens, num_columns = logits.student.shape
    num_rows = moments.ALONE
    if logits.teacher is not None:
        num_rows = moments.WITH_TEACHER if t is None else moments.WITH_MIXTURE
    out = logits.student.new_empty(num_rows, num_tokens, dtype=torch.float32)
    kernel_code.moments[(num_tokens,)](
        logits.student,
        logits.teacher_or_student,
        labels,
        out,
        num_tokens,
        num_columns,
        logits.student.stride(0),
        0.0 if t is None else t,
        1 / logits.temperature,
        WITH_TEACHER=logits.teacher is not None,
        WITH_MIXTURE=num_rows == moments.WITH_MIXTURE,
        AT_ONE=logits.temperature == 1.0,
        BLOCK=_block(num_columns),
        num_warps=8,
    )
    return out


def local_term_sums(
    logits: Logits, normalisers: torch.Tensor, terms: str, parameter: float
) -> torch.Tensor:
    """Σ f and Σ slope of a separable divergence over this rank's columns, [2, C] float32.

    Args:
        logits: of both models.
        normalisers: [5, C]; see `Moments.normalisers`.
        terms: name of the function in `kernel_code` that gives f and its slope.
        parameter: of f.
    """
    num_tokens, num_columns = logits.student.shape
    out = logits.student.new_empty(2, num_tokens, dtype=torch.float32)
    kernel_code.term_sums[(num_tokens,)](
        logits.student,
        logits.teacher,
        normalisers,
        out,
        num_tokens,
        num_columns,
        logits.student.stride(0),
        1 / logits.temperature,
        parameter,
        TERMS=getattr(kernel_code, terms),
        BLOCK=_block(num_columns),
        num_warps=8,
    )
    return out


def write_gradient(
    logits: Logits,
    labels: torch.Tensor,
    normalisers: torch.Tensor,
    statistics: torch.Tensor,
    factors: torch.Tensor,
    slope: Slope,
) -> None:
    """Overwrite the student's logits with the loss's derivative by them.

    Args:
        logits: of both models.
        labels: [C] int64, column of the label in this shard, or anything outside 0..v-1.
        normalisers: [5, C]; see `Moments.normalisers`.
        statistics: of the divergence, [k, C]; k may be 0 where it needs none.
        factors: [C], of each token's loss.
        slope: the loss.
    """
    num_tokens, num_columns = logits.student.shape
    block = _block(num_columns)
    kernel_code.gradient[(num_tokens, triton.cdiv(num_columns, block))](
        logits.student,
        logits.teacher_or_student,
        labels,
        factors,
        normalisers,
        statistics if len(statistics) else factors,
        num_tokens,
        num_columns,
        logits.student.stride(0),
        1 / logits.temperature,
        slope.divergence_weight / logits.temperature,
        slope.cross_entropy_weight,
        slope.parameter if slope.t is None else slope.t,
        0.0 if slope.softcap is None else 1 / slope.softcap,
        TERMS=None if slope.terms is None else getattr(kernel_code, slope.terms),
        WITH_INTERPOLATION=slope.t is not None,
        WITH_CROSS_ENTROPY=slope.cross_entropy_weight > 0,
        BLOCK=block,
        num_warps=8,
    )


def _block(num_columns: int) -> int:
    return min(MOST_COLUMNS, int(triton.next_power_of_2(num_columns)))

"""Triton kernels of the arithmetic on logits; each reads them once.

They compute what `moments.local_moments`, `Separable.statistics` and
`ChunkLoop._block_gradient` compute, in float32 on logits of 16 or 32 bits, without
temporaries of the logits' size: one pass for the moments, one more for the sums of a
separable divergence, one that overwrites the student's logits with the gradient.
`TRITON_INTERPRET=1` runs them on a CPU.

Shapes: C tokens, v columns of this rank. Both models' logits have rows of the same stride, a
multiple of 64, so that loads are wide whatever v is.
"""

from typing import TYPE_CHECKING

import torch
import triton

from taidscale.losses import kernel_code, moments
from taidscale.losses.divergence import Divergence, Separable

if TYPE_CHECKING:
    from taidscale.losses.chunk import Chunk
    from taidscale.losses.objective import Objective

MOST_COLUMNS = 2048
"""Columns of a token in registers at once."""


def local_moments(chunk: "Chunk", t: float | None) -> torch.Tensor:
    """See `moments.local_moments`."""
    num_tokens, num_columns = chunk.student.shape
    num_rows = moments.ALONE
    if chunk.teacher is not None:
        num_rows = moments.WITH_TEACHER if t is None else moments.WITH_MIXTURE
    out = chunk.student.new_empty(num_rows, num_tokens, dtype=torch.float32)
    kernel_code.moments[(num_tokens,)](
        chunk.student,
        chunk.student if chunk.teacher is None else chunk.teacher,
        chunk.labels,
        out,
        num_tokens,
        num_columns,
        chunk.student.stride(0),
        0.0 if t is None else t,
        1 / chunk.temperature,
        WITH_TEACHER=chunk.teacher is not None,
        WITH_MIXTURE=num_rows == moments.WITH_MIXTURE,
        AT_ONE=chunk.temperature == 1.0,
        BLOCK=_block(num_columns),
        num_warps=8,
    )
    return out


def local_term_sums(chunk: "Chunk", kernel: str, parameter: float) -> torch.Tensor:
    """Σ f and Σ slope of a separable divergence over this rank's columns: [2, C].

    Args:
        chunk: with moments.
        kernel: name of the function in `kernel_code` that gives f and its slope.
        parameter: of f.
    """
    num_tokens, num_columns = chunk.student.shape
    assert chunk.teacher is not None
    out = chunk.student.new_empty(2, num_tokens, dtype=torch.float32)
    kernel_code.term_sums[(num_tokens,)](
        chunk.student,
        chunk.teacher,
        _normalisers(chunk),
        out,
        num_tokens,
        num_columns,
        chunk.student.stride(0),
        1 / chunk.temperature,
        parameter,
        TERMS=getattr(kernel_code, kernel),
        BLOCK=_block(num_columns),
        num_warps=8,
    )
    return out


def have_gradient(divergence: Divergence | None) -> bool:
    """Whether `write_gradient` knows the divergence."""
    if divergence is None or divergence.interpolation is not None:
        return True
    return isinstance(divergence, Separable) and divergence.kernel is not None


def write_gradient(
    chunk: "Chunk",
    objective: "Objective",
    statistics: torch.Tensor,
    factors: torch.Tensor,
    softcap: float | None,
) -> None:
    """Overwrite the student's logits with the loss's derivative by them.

    Args:
        chunk: with moments.
        objective: with a divergence for which `have_gradient`.
        statistics: of the divergence, [k, C].
        factors: [C], of each token's loss.
        softcap: of the student's logits.
    """
    num_tokens, num_columns = chunk.student.shape
    divergence, block = objective.divergence, _block(num_columns)
    terms, t, parameter = None, None, 0.0
    if isinstance(divergence, Separable):
        terms, parameter = getattr(kernel_code, str(divergence.kernel)), divergence.parameter
    elif divergence is not None:
        t = divergence.interpolation
    kernel_code.gradient[(num_tokens, triton.cdiv(num_columns, block))](
        chunk.student,
        chunk.student if chunk.teacher is None else chunk.teacher,
        chunk.labels,
        factors,
        _normalisers(chunk),
        factors if divergence is None else statistics,
        num_tokens,
        num_columns,
        chunk.student.stride(0),
        1 / chunk.temperature,
        objective.divergence_weight / chunk.temperature,
        objective.cross_entropy_weight,
        parameter if t is None else t,
        0.0 if softcap is None else 1 / softcap,
        TERMS=terms,
        WITH_INTERPOLATION=t is not None,
        WITH_CROSS_ENTROPY=objective.cross_entropy_weight > 0,
        BLOCK=block,
        num_warps=8,
    )


def _block(num_columns: int) -> int:
    return min(MOST_COLUMNS, int(triton.next_power_of_2(num_columns)))


def _normalisers(chunk: "Chunk") -> torch.Tensor:
    """Maximum and log-sums of the student at τ and at 1, then those of the teacher: [5, C]."""
    assert chunk.moments is not None
    student, teacher = chunk.moments.student, chunk.moments.teacher or chunk.moments.student
    rows = [student.maximum, student.log_sum, chunk.moments.student_log_sum]
    return torch.stack([*rows, teacher.maximum, teacher.log_sum])

"""Some tokens at a time: their logits in this rank's columns, and sums over the vocabulary.

Shapes: N tokens of the tp_group, C tokens of a chunk, v columns of this rank, V of all ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist

from taidscale.losses.chunking import BLOCK_ELEMENTS
from taidscale.losses.columns import Columns
from taidscale.losses.moments import Moments, local_moments
from taidscale.parallel.collectives import all_reduce_


@dataclass(frozen=True)
class Chunk:
    """The logits of C tokens; in the end the student's are overwritten by their gradient."""

    student: torch.Tensor
    """[C, v]."""
    teacher: torch.Tensor | None
    """[C, v], where there is a teacher."""
    labels: torch.Tensor
    """[C] int64, column of the label in this shard; anything outside 0..v-1 where it is not."""
    temperature: float
    group: dist.ProcessGroup
    with_kernels: bool = False
    """Whether Triton's kernels compute what they can."""
    moments: Moments | None = field(default=None, repr=False)
    """Once they are known."""

    def with_moments(self, moments: Moments) -> "Chunk":
        """The same chunk, with log-probabilities."""
        return replace(self, moments=moments)

    @property
    def blocks(self) -> list[slice]:
        """The tokens that the plain arithmetic sees at once."""
        num_tokens, num_columns = self.student.shape
        size = max(1, BLOCK_ELEMENTS[self.student.device.type] // num_columns)
        return [slice(start, min(start + size, num_tokens)) for start in range(0, num_tokens, size)]

    def columns(self, rows: slice) -> Columns:
        """Some of the tokens, in the type of the arithmetic."""
        wide = torch.promote_types(self.student.dtype, torch.float32)
        moments = self.moments
        return Columns(
            rows,
            self.student[rows].to(wide),
            None if self.teacher is None else self.teacher[rows].to(wide),
            self.labels[rows],
            self.temperature,
            None if moments is None else moments.student.rows(rows),
            None if moments is None or moments.teacher is None else moments.teacher.rows(rows),
        )

    def local_moments(self, t: float | None) -> torch.Tensor:
        """See `moments.local_moments`."""
        if self.with_kernels:
            from taidscale.losses import kernels  # not every machine has Triton

            logits = kernels.Logits(self.student, self.teacher, self.temperature)
            return kernels.local_moments(logits, self.labels, t)
        return torch.cat([local_moments(self.columns(rows), t) for rows in self.blocks], 1)

    def sum(self, terms: Callable[[Columns], torch.Tensor]) -> torch.Tensor:
        """Sums over the whole vocabulary: [k, C].

        Args:
            terms: gives the sums over some tokens' columns, [k, C of these].

        Cost: an all-reduce SUM of [k, C].
        """
        local = torch.cat([terms(self.columns(rows)) for rows in self.blocks], 1)
        return self.summed(local)

    def summed(self, local: torch.Tensor) -> torch.Tensor:
        """Sums of this rank's columns, added up over the ranks, in place.

        Cost: an all-reduce SUM of `local`.
        """
        return all_reduce_(local, dist.ReduceOp.SUM, self.group)

    def kernel_sums(self, terms: str, parameter: float) -> torch.Tensor:
        """As `sum`, by the function of that name in `kernel_code`: [2, C].

        Cost: an all-reduce SUM of [2, C].
        """
        from taidscale.losses import kernels  # not every machine has Triton

        assert self.moments is not None
        logits = kernels.Logits(self.student, self.teacher, self.temperature)
        normalisers = self.moments.normalisers()
        return self.summed(kernels.local_term_sums(logits, normalisers, terms, parameter))

    def maximum(self, terms: Callable[[Columns], torch.Tensor]) -> torch.Tensor:
        """Maxima over the whole vocabulary, as `sum`.

        Cost: an all-reduce MAX of [k, C].
        """
        local = torch.cat([terms(self.columns(rows)) for rows in self.blocks], 1)
        return all_reduce_(local, dist.ReduceOp.MAX, self.group)

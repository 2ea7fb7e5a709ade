"""One pass over the chunks of tokens: logits, losses, and the gradients of hidden and head.

Shapes: N tokens of the tp_group, C tokens of a chunk, v vocabulary entries of this rank, k
moments, T ranks, Ds the student's hidden size.
"""

from collections import deque
from dataclasses import dataclass

import torch

from taidscale.losses.chunk import Chunk
from taidscale.losses.chunking import padded_columns
from taidscale.losses.columns import Normaliser
from taidscale.losses.head_settings import HeadSettings
from taidscale.losses.moments import ALONE, merged
from taidscale.losses.objective import Objective
from taidscale.losses.signal import TeacherSignal, softcap_
from taidscale.parallel.collectives import Gathering, start_all_gather


@dataclass(frozen=True)
class _Begun:
    """A chunk whose moments are on their way."""

    tokens: slice
    chunk: Chunk
    parts: Gathering


class ChunkLoop:
    """The state of one pass."""

    def __init__(
        self,
        hidden: torch.Tensor,
        weight_rows: torch.Tensor,
        labels: torch.Tensor,
        factors: torch.Tensor,
        teacher: TeacherSignal | None,
        objective: Objective,
        settings: HeadSettings,
    ) -> None:
        """Make the buffers that all chunks share.

        Args:
            hidden: [N, Ds] of the whole tp_group.
            weight_rows: [v, Ds] of the student's head.
            labels: [N] int64.
            factors: [N], of each token's loss; 0 where it has none.
            teacher: absent where there is none.
            objective: what to minimise.
            settings: see there.
        """
        self._hidden, self._weight_rows = hidden, weight_rows
        self._labels, self._factors = labels, factors
        self._teacher, self._objective, self._settings = teacher, objective, settings
        device = hidden.device
        num_bytes = hidden.itemsize + (0 if teacher is None else teacher.dtype.itemsize)
        chunking = settings.chunking(device)
        self._size = chunking.chunk_size(len(labels), num_bytes)
        self._ahead = chunking.num_ahead(len(labels), self._size)
        self._with_kernels = settings.uses_kernels(hidden)
        columns = slice(len(weight_rows))
        shape = (self._ahead + 1, self._size, padded_columns(len(weight_rows)))
        self._student_logits = hidden.new_empty(shape)[..., columns]
        self._teacher_logits = None
        if teacher is not None:
            self._teacher_logits = hidden.new_empty(shape, dtype=teacher.dtype)[..., columns]
        self.d_hidden: torch.Tensor
        """[N, Ds], float32 or float64, this rank's part of the sum."""
        self.d_rows: torch.Tensor
        """[v, Ds], float32 or float64."""

    def run(self, with_gradient: bool, with_agreement: bool) -> dict[str, torch.Tensor]:
        """What is known of each token, by name: [N] each; sets `d_hidden` and `d_rows`."""
        if with_gradient:
            wide = torch.promote_types(self._hidden.dtype, torch.float32)
            self.d_hidden = torch.empty_like(self._hidden, dtype=wide)
            self.d_rows = torch.zeros_like(self._weight_rows, dtype=wide)
        num_chunks = -(-len(self._labels) // self._size)
        begun: deque[_Begun] = deque()
        found = []
        for index in range(num_chunks + self._ahead):
            if index < num_chunks:
                begun.append(self._begin(index, with_agreement))
            if index >= self._ahead:
                found.append(self._finish(begun.popleft(), with_gradient, with_agreement))
        return {name: torch.cat([tokens[name] for tokens in found]) for name in found[0]}

    def _begin(self, index: int, with_agreement: bool) -> _Begun:
        """Compute the logits and this rank's moments, and send these."""
        tokens = slice(index * self._size, min((index + 1) * self._size, len(self._labels)))
        chunk = self._logits(tokens, index % (self._ahead + 1))
        divergence = self._objective.divergence
        local = chunk.local_moments(divergence.interpolation if divergence else None)
        if with_agreement:
            assert chunk.teacher is not None
            likeliest = [chunk.student.argmax(1), chunk.teacher.argmax(1)]
            likeliest = [indices + self._settings.vocabulary.start for indices in likeliest]
            local = torch.cat([local, torch.stack(likeliest).to(local)])
        return _Begun(tokens, chunk, start_all_gather(local, self._settings.group))

    def _finish(
        self, begun: _Begun, with_gradient: bool, with_agreement: bool
    ) -> dict[str, torch.Tensor]:
        """Losses of a chunk's tokens, and what they add to the gradients."""
        parts, objective = begun.parts.wait(), self._objective
        tokens = {}
        if with_agreement:
            parts, likeliest = parts[:, :-2], parts[:, -2:]
            tokens["top1_agreement"] = _agreement(parts[:, [0, ALONE]], likeliest)
        moments = merged(parts, objective.temperature)
        chunk = begun.chunk.with_moments(moments)
        tokens |= moments.tokens
        loss = objective.cross_entropy_weight * tokens["next_token_loss"]
        statistics = loss.new_empty(0, len(loss))
        if objective.divergence is not None:
            statistics = objective.divergence.statistics(chunk)
            tokens["divergence"] = objective.divergence.value(statistics)
            tokens |= objective.divergence.signals(statistics)
            loss = loss + objective.divergence_weight * tokens["divergence"]
        factors = self._factors[begun.tokens]
        tokens["loss"] = factors * loss
        if with_gradient:
            self._write_gradient(chunk, statistics, factors)
            self._accumulate(chunk.student, begun.tokens)
        return tokens

    def _logits(self, tokens: slice, slot: int) -> Chunk:
        """This rank's columns of both models' logits, in buffers that chunks share."""
        labels = self._labels[tokens] - self._settings.vocabulary.start
        size = len(labels)
        student = self._student_logits[slot, :size]
        torch.mm(self._hidden[tokens], self._weight_rows.t(), out=student)
        softcap_(student, self._settings.softcap)
        teacher = None
        if self._teacher is not None:
            assert self._teacher_logits is not None
            teacher = self._teacher_logits[slot, :size]
            self._teacher.write_logits(tokens, teacher)
        return Chunk(
            student,
            teacher,
            labels,
            self._objective.temperature,
            self._settings.group,
            self._with_kernels,
        )

    def _write_gradient(
        self, chunk: Chunk, statistics: torch.Tensor, factors: torch.Tensor
    ) -> None:
        """Overwrite the student's logits with the loss's derivative by them."""
        if self._with_kernels and self._objective.has_kernel:
            self._gradient_by_kernel(chunk, statistics, factors)
            return
        for rows in chunk.blocks:
            gradient = self._block_gradient(chunk, rows, statistics[:, rows])
            chunk.student[rows] = gradient.mul_(factors[rows, None])

    def _gradient_by_kernel(
        self, chunk: Chunk, statistics: torch.Tensor, factors: torch.Tensor
    ) -> None:
        from taidscale.losses import kernels  # not every machine has Triton

        objective, divergence = self._objective, self._objective.divergence
        assert chunk.moments is not None
        slope = kernels.Slope(
            objective.divergence_weight,
            objective.cross_entropy_weight,
            self._settings.softcap,
            t=divergence.interpolation if divergence else None,
            terms=divergence.kernel if divergence else None,
            parameter=divergence.parameter if divergence and divergence.kernel else 0.0,
        )
        kernels.write_gradient(
            kernels.Logits(chunk.student, chunk.teacher, chunk.temperature),
            chunk.labels,
            chunk.moments.normalisers(),
            statistics,
            factors,
            slope,
        )

    def _block_gradient(self, chunk: Chunk, rows: slice, statistics: torch.Tensor) -> torch.Tensor:
        """Derivative by some tokens' student logits, as they come out of the head: [C, v]."""
        columns, objective = chunk.columns(rows), self._objective
        weight = objective.cross_entropy_weight
        if objective.divergence is None:
            gradient = torch.zeros_like(columns.student)
        else:
            gradient = objective.divergence.gradient(columns, statistics)
            # The loss has τ², and u = z/τ one division by it.
            gradient.mul_(objective.divergence_weight / objective.temperature)
        if weight:
            assert chunk.moments is not None
            student, log_sum = chunk.moments.student, chunk.moments.student_log_sum
            at_one = Normaliser(student.maximum, log_sum).rows(rows)
            q = at_one.log_probabilities(columns.student, 1.0).exp_()
            gradient.add_(columns.add_at_label_(q.mul_(weight), q.new_full((len(q),), -weight)))
        if (cap := self._settings.softcap) is not None:
            gradient.mul_(1 - (columns.student / cap).square_())
        return gradient

    def _accumulate(self, d_logits: torch.Tensor, tokens: slice) -> None:
        """dHidden of these tokens, and their part of dW, summed in float32."""
        hidden, rows = self._hidden[tokens], self._weight_rows
        if d_logits.dtype == self.d_rows.dtype:
            torch.mm(d_logits, rows, out=self.d_hidden[tokens])
            self.d_rows.addmm_(d_logits.t(), hidden)
        elif d_logits.is_cuda:
            wide = self.d_rows.dtype
            torch.mm(d_logits, rows, out_dtype=wide, out=self.d_hidden[tokens])
            torch.addmm(self.d_rows, d_logits.t(), hidden, out_dtype=wide, out=self.d_rows)
        else:
            self.d_hidden[tokens] = d_logits @ rows
            self.d_rows += d_logits.t() @ hidden


def _agreement(maxima: torch.Tensor, likeliest: torch.Tensor) -> torch.Tensor:
    """[C], 1 where the likeliest entries of both models are the same.

    Args:
        maxima: [T, 2, C], of student and teacher on each rank.
        likeliest: [T, 2, C], their indices in the vocabulary.
    """
    best = torch.where(maxima == maxima.amax(0), likeliest, torch.inf).amin(0)
    return torch.eq(best[0], best[1]).to(maxima.dtype)

"""What one rank sees of some tokens' logits.

Shapes: C tokens, v columns of this rank, V columns of all ranks of the tp_group.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Normaliser:
    """What turns logits z into log-probabilities over V: (z - maximum)/τ - log_sum.

    The maximum is subtracted before anything is rounded, so that large logits cost nothing.
    """

    maximum: torch.Tensor
    """[C], of z over V."""
    log_sum: torch.Tensor
    """[C], log Σ e^((z - maximum)/τ) over V."""

    def rows(self, rows: slice) -> "Normaliser":
        """That of some of the tokens."""
        return Normaliser(self.maximum[rows], self.log_sum[rows])

    def log_probabilities(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """[C, v], a new tensor."""
        centred = logits - self.maximum[:, None]
        if temperature != 1.0:
            centred.div_(temperature)
        return centred.sub_(self.log_sum[:, None])


@dataclass(frozen=True)
class Columns:
    """Some tokens' logits in this rank's columns, in the type in which the arithmetic is done."""

    rows: slice
    """Which of the chunk's tokens."""
    student: torch.Tensor
    """[C, v], float32, or float64 for float64 logits. Not to be changed in place."""
    teacher: torch.Tensor | None
    """[C, v], where there is a teacher. Not to be changed in place."""
    labels: torch.Tensor
    """[C] int64, column of the label in this shard; anything outside 0..v-1 where it is not."""
    temperature: float = 1.0
    """τ, by which `log_q` and `log_p` divide the logits."""
    student_normaliser: Normaliser | None = None
    teacher_normaliser: Normaliser | None = None

    def log_q(self) -> torch.Tensor:
        """Log-probabilities of the student at τ, [C, v], a new tensor."""
        assert self.student_normaliser is not None
        return self.student_normaliser.log_probabilities(self.student, self.temperature)

    def log_p(self) -> torch.Tensor:
        """Log-probabilities of the teacher at τ, [C, v], a new tensor."""
        assert self.teacher is not None
        assert self.teacher_normaliser is not None
        return self.teacher_normaliser.log_probabilities(self.teacher, self.temperature)

    def interpolated(self, t: float) -> torch.Tensor:
        """((1 - t)·student + t·teacher)/τ, [C, v], a new tensor."""
        assert self.teacher is not None
        mixed = torch.lerp(self.student, self.teacher, t)
        return mixed if self.temperature == 1.0 else mixed.div_(self.temperature)

    def at_label(self, values: torch.Tensor) -> torch.Tensor:
        """values[token, label] where the label is in this shard, else 0: [C]."""
        picked = values.gather(1, self.labels.clamp(0, values.shape[1] - 1)[:, None])[:, 0]
        return picked.where(self._has_label(values.shape[1]), torch.zeros_like(picked))

    def add_at_label_(self, values: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
        """Add `amounts`, [C], to values[token, label] where the label is in this shard."""
        amounts = amounts.where(self._has_label(values.shape[1]), torch.zeros_like(amounts))
        labels = self.labels.clamp(0, values.shape[1] - 1)
        return values.scatter_add_(1, labels[:, None], amounts[:, None])

    def _has_label(self, num_columns: int) -> torch.Tensor:
        return (self.labels >= 0) & (self.labels < num_columns)


def row_dots(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Inner products of rows: [C]."""
    return (left * right).sum(1)

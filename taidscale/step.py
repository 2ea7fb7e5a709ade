"""One optimizer step: teacher, student, loss and backward for each micro-batch, then the update."""

import math

import torch

from taidscale.config.schema import RunConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.student import Student
from taidscale.labels import IGNORED
from taidscale.losses.objective import Objective
from taidscale.metrics.clock import StepClock
from taidscale.metrics.sums import LossSums
from taidscale.parallel.grid import Grid
from taidscale.schedules.cross_entropy import cross_entropy_weight
from taidscale.schedules.learning_rate import learning_rate
from taidscale.schedules.progress import Progress
from taidscale.teachers.source import TeacherSource


def train_step(
    config: RunConfig,
    progress: Progress,
    micro_batches: list[MicroBatch],
    teacher: TeacherSource | None,
    student: Student,
    grid: Grid,
    clock: StepClock,
) -> tuple[dict[str, float], int]:
    """One update of the student. All ranks call it together.

    Returns:
        Means over the valid tokens of all ranks, with what the update used; and the number of
        tokens learnt from, 0 if loss or gradient were not finite and nothing was updated.

    Cost: those of teacher, student and backward for each micro-batch, one all-reduce of 16 bytes
    before and one of 8 bytes a metric after them.
    """
    num_valid, token_weight = count_valid(micro_batches, grid)
    weight = cross_entropy_weight(config.loss, progress.step, config.total_steps)
    objective = Objective.at(config.loss, t=progress.t, cross_entropy_weight=weight)
    sums = LossSums()
    for batch in micro_batches:
        with clock.section("teacher"):
            signal = teacher(batch) if teacher and config.learns_from_teacher else None
        total, batch_sums = student(batch, signal, objective)
        del signal  # [N, Dt] perhaps, not needed for backward
        student.backward(total * (grid.world_size / (token_weight or 1.0)))
        sums.add(batch_sums)
    rate = learning_rate(config.learning_rate, progress.step, config.total_steps)
    gradient_norm = student.step(rate)
    metrics = {
        **sums.mean_over_world(grid, num_valid, token_weight),
        "t": progress.t,
        "cross_entropy_weight": weight,
        "learning_rate": rate,
        "gradient_norm": gradient_norm,
    }
    finite = math.isfinite(metrics["loss"] + gradient_norm)
    return metrics, num_valid if finite else 0


def count_valid(micro_batches: list[MicroBatch], grid: Grid) -> tuple[int, float]:
    """Tokens of the whole optimizer step, over all ranks, that have a label, and their weight.

    Cost: one all-reduce of 16 bytes.
    """
    own = torch.zeros(2, dtype=torch.float64)
    for batch in micro_batches:
        valid = (batch.labels != IGNORED).sum()
        weight = valid if batch.weights is None else batch.weights.double().sum()
        own += torch.stack([valid, weight]).cpu()
    num_valid, weight = grid.sum_over_world(own).tolist()
    return int(num_valid), weight

"""What looks after a run while it goes on: one call a step."""

import math
from types import TracebackType
from typing import Any, Self

from taidscale.config.schema import RunConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.student import Student
from taidscale.health.copies import CopyCheck
from taidscale.health.nonfinite import SkippedSteps
from taidscale.health.slow_ranks import SlowRanks
from taidscale.health.spikes import LossSpikes
from taidscale.health.watchdog import Heartbeat, Watchdog
from taidscale.metrics.report import Report
from taidscale.parallel.grid import Grid
from taidscale.recovery import Recovery
from taidscale.schedules.progress import Progress
from taidscale.teachers.source import TeacherSource

LONG_SECONDS = 3600.0
"""What starting, saving, evaluating and rolling back may take without being a hang."""


class RunWatch:
    """Heartbeat, hangs, skipped steps, spikes of the loss, slow ranks and corrupted copies."""

    def __init__(self, config: RunConfig, grid: Grid) -> None:
        health = config.health
        self._spike, self._every = health.spike, health.check_every_steps
        self._grid = grid
        self._watchdog = Watchdog(config.run_dir, grid.rank, health.hang_minutes * 60)
        self._heartbeat = Heartbeat(config.run_dir) if grid.is_first else None
        self._skipped = SkippedSteps(health, config.run_dir, grid)
        self._spikes = LossSpikes(health.spike) if health.spike else None
        self._slow_ranks = SlowRanks(health.slow_rank_ratio, grid)

    def __enter__(self) -> Self:
        self._watchdog.__enter__()
        self._watchdog.allow(LONG_SECONDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watchdog.__exit__(kind, error, traceback)

    def begin(
        self,
        step: int,
        memory: dict[str, Any] | None,
        teacher: TeacherSource | None,
        student: Student,
        report: Report,
    ) -> None:
        """All ranks call it before the first step of this start.

        Args:
            step: optimizer steps done before.
            memory: what `to_json` gave then.
            teacher: whose copies are compared.
            student: likewise.
            report: where to say what was seen.

        Cost: that of `CopyCheck.check`.
        """
        if memory is not None:
            self._skipped.load_json(memory["skipped"])
            if self._spikes and memory["spikes"] is not None:
                self._spikes.load_json(memory["spikes"])
        self.allow_long_phase()
        self._teacher, self._student, self._report = teacher, student, report
        self._copies = CopyCheck(self._grid)
        self._compare_copies(step)

    def allow_long_phase(self) -> None:
        """What comes next may take long: evaluation, a save, a roll-back."""
        self._watchdog.allow(LONG_SECONDS)

    def after_step(
        self, step: int, metrics: dict[str, float], micro_batches: list[MicroBatch]
    ) -> dict[str, float]:
        """Look at optimizer step `step`, from 1. All ranks call it together.

        Args:
            step: its number.
            metrics: its `loss`, `gradient_norm` and `wait_seconds`.
            micro_batches: that this rank learnt from.

        Returns:
            Further metrics.

        Raises:
            AgreedError: if the run must not go on.

        Cost: none, but every `check_every_steps` steps two all-gathers of a few numbers a rank;
        one of short strings for a step that is not finite.
        """
        self._watchdog.beat(step)
        if self._heartbeat:
            self._heartbeat.beat(step)
        self._slow_ranks.waited(metrics["wait_seconds"])
        loss, norm = metrics["loss"], metrics["gradient_norm"]
        if math.isfinite(loss + norm):
            self._skipped.end_row()
        else:
            keys = [batch.keys for batch in micro_batches]
            signs = self._student.signs()
            self._report.event("skipped", self._skipped.add(step, loss, norm, signs, keys), step)
        figures = {"skipped_steps": float(self._skipped.total)}
        if step % self._every == 0:
            self._compare_copies(step)
            more, warning = self._slow_ranks.check()
            figures |= more
            if warning:
                self._report.event("slow rank", warning, step)
        return figures

    def after_spike(
        self, step: int, loss: float, mix: dict[str, float], recovery: Recovery
    ) -> Progress | None:
        """Where the run goes on if it is rolled back because of this step's loss, else None.

        All ranks call it together, with the same loss.

        Args:
            step: its number.
            loss: its mean.
            mix: its share of each stream, by name.
            recovery: with which the run goes back.

        Raises:
            AgreedError: if it was rolled back too often.

        Cost: none without a spike.
        """
        if self._spikes is None or self._spike is None:
            return None
        found = self._spikes.see(loss, mix)
        if found is None:
            return None
        self._report.event("spike", f"step {step}: {found}", step)
        if not self._spike.roll_back:
            return None
        self.allow_long_phase()
        went_back = recovery.roll_back(self._spike.max_roll_backs)
        if went_back is None:
            self._report.event("spike", "there is no checkpoint to roll back to", step)
            return None
        progress = went_back.progress
        if (seen := went_back.health["spikes"]) is not None:
            self._spikes.load_json(seen)  # as if started again from there
        else:
            self._spikes.forget()
        self._report.roll_back(progress.step)
        what = (
            f"rolled back from step {step} to step {progress.step}; the samples of the steps "
            "between are not used again"
        )
        self._report.event("rolled back", what, progress.step)
        return progress

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        spikes = self._spikes.to_json() if self._spikes else None
        return {"skipped": self._skipped.to_json(), "spikes": spikes}

    def _compare_copies(self, step: int) -> None:
        teacher = self._teacher.weight_hashes() if self._teacher else {}
        self._copies.check(step, teacher, self._student.weight_hashes())

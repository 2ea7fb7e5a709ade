"""What looks after a run while it goes on: one call a step."""

import math
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from taidscale.config.schema import RunConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.student import Student
from taidscale.health.copies import CopyCheck
from taidscale.health.memory import WatchMemory
from taidscale.health.nonfinite import SkippedSteps
from taidscale.health.slow_ranks import SlowRanks
from taidscale.health.spikes import LossSpikes
from taidscale.health.watchdog import Heartbeat, Watchdog
from taidscale.parallel.grid import Grid
from taidscale.teachers.source import TeacherSource

LONG_SECONDS = 3600.0
"""What starting, saving, evaluating and rolling back may take without being a hang."""


@dataclass(frozen=True)
class Findings:
    """What was seen of one step; equal on all ranks."""

    figures: dict[str, float]
    """Further metrics of the step."""
    events: list[tuple[str, str]]
    """Their kinds, and what people should hear."""
    roll_back: bool
    """Whether the run shall go back to its last checkpoint."""


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
        memory: WatchMemory | None,
        teacher: TeacherSource | None,
        student: Student,
    ) -> None:
        """All ranks call it before the first step of this start.

        Args:
            step: optimizer steps done before.
            memory: what `memory` was then.
            teacher: whose copies are compared.
            student: likewise.

        Cost: that of `CopyCheck.check`.
        """
        if memory is not None:
            self._skipped.load_json(memory.skipped)
            if self._spikes and memory.spikes is not None:
                self._spikes.load_json(memory.spikes)
        self.allow_long_phase()
        self._teacher, self._student = teacher, student
        self._copies = CopyCheck(self._grid)
        self._compare_copies(step)

    def allow_long_phase(self) -> None:
        """What comes next may take long: evaluation, a save, a roll-back."""
        self._watchdog.allow(LONG_SECONDS)

    def after_step(
        self,
        step: int,
        metrics: dict[str, float],
        micro_batches: list[MicroBatch],
        mix: dict[str, float],
    ) -> Findings:
        """Look at optimizer step `step`, from 1. All ranks call it together.

        Args:
            step: its number.
            metrics: its `loss`, `gradient_norm` and `wait_seconds`.
            micro_batches: that this rank learnt from.
            mix: the share of each stream in it, by name.

        Raises:
            AgreedError: if too many steps in a row were skipped.

        Cost: none, but every `check_every_steps` steps an all-gather of a few numbers a rank; one
        of short strings for a step that is not finite.
        """
        self._watchdog.beat(step)
        if self._heartbeat:
            self._heartbeat.beat(step)
        self._slow_ranks.waited(metrics["wait_seconds"])
        events = []
        loss, norm = metrics["loss"], metrics["gradient_norm"]
        if math.isfinite(loss + norm):
            self._skipped.end_row()
        else:
            keys = [batch.keys for batch in micro_batches]
            signs = self._student.signs()
            events.append(("skipped", self._skipped.add(step, loss, norm, signs, keys)))
        figures = {"skipped_steps": float(self._skipped.total)}
        if step % self._every == 0:
            more, warning = self._slow_ranks.check()
            figures |= more
            if warning:
                events.append(("slow rank", warning))
        spike = self._spikes.see(loss, mix) if self._spikes else None
        if spike is not None:
            events.append(("spike", f"step {step}: {spike}"))
        roll_back = spike is not None and self._spike is not None and self._spike.roll_back
        return Findings(figures, events, roll_back)

    def compare_copies(self, step: int) -> None:
        """Every `check_every_steps` steps, compare what several ranks hold. All ranks call it.

        Raises:
            AgreedError: if it differs.

        Cost: that of `CopyCheck.check`, then.
        """
        if step % self._every == 0:
            self._compare_copies(step)

    def go_back(self, memory: WatchMemory) -> None:
        """Compare the next losses with those before the checkpoint to which the run went back."""
        if self._spikes is None:
            return
        if memory.spikes is not None:
            self._spikes.load_json(memory.spikes)  # as if started again from there
        else:
            self._spikes.forget()

    @property
    def memory(self) -> WatchMemory:
        """For a checkpoint."""
        spikes = self._spikes.to_json() if self._spikes else None
        return WatchMemory(self._skipped.to_json(), spikes)

    def _compare_copies(self, step: int) -> None:
        teacher = self._teacher.weight_hashes() if self._teacher else {}
        self._copies.check(step, teacher, self._student.weight_hashes())

"""The loop of a training run; `python -m taidscale.train` is a door to `taidscale train`."""

import sys
from importlib import import_module

from taidscale.engine.student import Student
from taidscale.evaluate import evaluate, open_held_out
from taidscale.health.stop import StopRequest
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.metrics.profiler import Profiler
from taidscale.metrics.run_log import RunLog
from taidscale.parallel.agreement import on_first
from taidscale.parallel.grid import Grid
from taidscale.run.folder import fill_run_folder
from taidscale.run.recovery import Recovery
from taidscale.run.start_checks import Checked
from taidscale.run.start_log import open_run_log
from taidscale.run.watch import RunWatch
from taidscale.schedules.interpolation import t_schedule
from taidscale.schedules.progress import Progress
from taidscale.step import train_step
from taidscale.teachers.open import open_teacher


def train(start: Checked, grid: Grid, stop: StopRequest, watch: RunWatch) -> str | None:
    """Distil until `total_steps`, or until a rank is asked to stop. All ranks call it together.

    Returns:
        Why it stopped before its end, with a checkpoint; None at the end.

    Raises:
        ValueError: if something that the user can mend goes wrong; AgreedError where all
            ranks know of it.
    """
    config, prepared, loader = start.config, start.prepared, start.loader
    clock = StepClock(grid.device)
    vocabulary = Vocabulary.split(prepared.vocabulary.size, grid.tp_rank, grid.tp_size)
    teacher = open_teacher(config, prepared.teacher, prepared.teacher_folder, vocabulary, grid)
    student = Student(config, vocabulary, grid, clock)
    held_out = open_held_out(config, vocabulary.size, grid)
    recovery = Recovery(config, student, loader, grid)
    schedule, total_steps = t_schedule(config.loss), config.total_steps
    watch.allow_long_phase()
    before = recovery.resume()
    progress = before.progress if before else Progress.at_start(schedule)
    on_first(grid, lambda: fill_run_folder(config, prepared, start.models))
    run_log = open_run_log(start, before, progress, teacher, student, grid)
    watch.begin(progress.step, before.health if before else None, teacher, student)
    profiler = Profiler(config.profile, config.run_dir, grid.rank, grid.device)
    asked = None

    def evaluate_if(due: bool) -> None:
        for name, tokens in held_out.items() if due else ():
            watch.allow_long_phase()
            figures = evaluate(student, teacher, tokens, grid)
            run_log.evaluation({"step": progress.step, "t": progress.t, **figures}, name)

    def is_due(every_steps: int) -> bool:
        return progress.step % every_steps == 0 or progress.step == total_steps

    evaluate_if(config.evaluation is not None and config.evaluation.at_start and not progress.step)
    while progress.step < total_steps and not asked:
        profiler.before_step(progress.step + 1)
        clock.start_step()
        with clock.waiting("wait"), stop.waiting():
            micro_batches = [batch.to(grid.device) for batch in loader.next_step()]
        metrics, num_learnt = train_step(
            config, progress, micro_batches, teacher, student, grid, clock
        )
        progress = progress.advance(schedule, metrics, num_learnt, total_steps)
        metrics |= clock.end_step(num_learnt)
        profiler.after_step(progress.step)
        found = watch.after_step(progress.step, metrics, micro_batches, loader.mix)
        epochs = {f"epoch/{name}": number for name, number in loader.epochs.items()}
        run_log.step({**progress.metrics(), **metrics, **found.figures, **epochs})
        for kind, message in found.events:
            run_log.event(kind, message, progress.step)
        watch.compare_copies(progress.step)
        if found.roll_back and (undone := roll_back(progress, recovery, watch, run_log)):
            progress = undone
            continue
        evaluate_if(config.evaluation is not None and is_due(config.evaluation.every_steps))
        asked, writing = agree(stop, recovery.busy, grid)
        if not writing:
            recovery.finish()
        if is_due(config.checkpoint.every_steps) or asked:
            watch.allow_long_phase()
            recovery.save(progress, watch.memory)
    profiler.close()
    watch.allow_long_phase()
    recovery.finish()
    asked = asked if progress.step < total_steps else None
    kind, what = ("interrupted", f"{asked}: saved") if asked else ("finished", "finished")
    run_log.event(kind, f"{what} after step {progress.step}", progress.step)
    run_log.close()
    return asked


def roll_back(
    progress: Progress, recovery: Recovery, watch: RunWatch, run_log: RunLog
) -> Progress | None:
    """Go back to the last checkpoint because of a spike; where the run goes on from.

    All ranks call it together.

    Raises:
        AgreedError: if the run was rolled back too often.

    Cost: that of `Recovery.roll_back`.
    """
    watch.allow_long_phase()
    went_back = recovery.roll_back()
    if went_back is None:
        run_log.event("spike", "there is no checkpoint to roll back to", progress.step)
        return None
    watch.go_back(went_back.health)
    step = went_back.progress.step
    run_log.roll_back(step)
    what = (
        f"rolled back from step {progress.step} to step {step}; the samples of the steps between "
        "are not used again"
    )
    run_log.event("rolled back", what, step)
    return went_back.progress


def agree(stop: StopRequest, busy: bool, grid: Grid) -> tuple[str | None, bool]:
    """What the ranks do between two steps; equal on all of them.

    Args:
        stop: whether this rank is asked to end.
        busy: whether it is still writing a checkpoint.
        grid: all ranks.

    Returns:
        Why the run ends here, if any rank was asked to end it; and whether any rank is busy.

    Cost: one all-gather of 16 bytes a rank; if one was asked, another of short strings.
    """
    asked, writing = zip(*grid.gather_floats(stop.reason is not None, busy), strict=True)
    if not any(asked):
        return None, any(writing)
    reasons = enumerate(grid.gather(stop.reason))
    return next(f"{why} (rank {rank})" for rank, why in reasons if why), any(writing)


if __name__ == "__main__":
    # By its name: the command stands above the loop.
    sys.exit(import_module("taidscale.commands.dispatch").main(["train", *sys.argv[1:]]))

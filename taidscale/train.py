"""The loop of a training run; `python -m taidscale.train` is a door to `taidscale train`."""

import sys
from importlib import import_module

from taidscale.checkpoint.store import CheckpointStore
from taidscale.config.schema import RunConfig
from taidscale.engine.student import Student
from taidscale.engine.teacher import Teacher
from taidscale.evaluate import evaluate, open_held_out
from taidscale.health.devices import device_name
from taidscale.health.stop import StopRequest
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.metrics.report import Report
from taidscale.parallel.agreement import on_first
from taidscale.parallel.grid import Grid
from taidscale.preflight import Prepared
from taidscale.recovery import Recovery
from taidscale.run_folder import fill_run_folder, folder_id
from taidscale.run_status import CHECKPOINTS_FOLDER
from taidscale.schedules.interpolation import t_schedule
from taidscale.schedules.progress import Progress
from taidscale.start_checks import Checked
from taidscale.step import train_step
from taidscale.watch import RunWatch


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
    teacher = load_teacher(config, prepared, vocabulary, grid)
    student = Student(config, vocabulary, grid, clock)
    held_out = open_held_out(config, prepared, grid)
    store = CheckpointStore(config.run_dir / CHECKPOINTS_FOLDER, grid, config.checkpoint)
    recovery = Recovery(config, store, student, loader, grid, folder_id(config.run_dir))
    schedule, total_steps = t_schedule(config.loss), config.total_steps
    watch.allow_long_phase()
    before = recovery.resume()
    progress = before.progress if before else Progress.at_start(schedule)
    on_first(grid, lambda: fill_run_folder(config, prepared, start.models))
    rolled_back_at = before.rolled_back_at if before else None
    report = Report(
        config,
        first_step=progress.step,
        enabled=grid.is_first,
        rolled_back_at=rolled_back_at,
    )
    began = describe(config, student, grid, progress)
    report.event("start", began, progress.step, facts(config, teacher, student, grid))
    for change in before.changes if before else ():
        report.event("changed", change, progress.step)
    watch.begin(progress.step, before.health if before else None, teacher, student, report)
    asked = None

    def evaluate_if(due: bool) -> None:
        for name, tokens in held_out.items() if due else ():
            watch.allow_long_phase()
            figures = evaluate(student, teacher, tokens, grid)
            report.evaluation({"step": progress.step, "t": progress.t, **figures}, name)

    def is_due(every_steps: int) -> bool:
        return progress.step % every_steps == 0 or progress.step == total_steps

    evaluate_if(config.evaluation is not None and config.evaluation.at_start and not progress.step)
    while progress.step < total_steps and not asked:
        clock.start_step()
        with clock.waiting("wait"), stop.waiting():
            micro_batches = [batch.to(grid.device) for batch in loader.next_step()]
        metrics, num_learnt = train_step(
            config, progress, micro_batches, teacher, student, grid, clock
        )
        progress = progress.advance(schedule, metrics, num_learnt, total_steps)
        metrics |= clock.end_step(num_learnt)
        metrics |= watch.after_step(progress.step, metrics, micro_batches)
        passes = {f"passes/{name}": number for name, number in loader.passes.items()}
        report.step({**progress.metrics(), **metrics, **passes})
        if rolled_back := watch.after_spike(progress.step, metrics["loss"], loader.mix, recovery):
            progress = rolled_back
            continue
        evaluate_if(config.evaluation is not None and is_due(config.evaluation.every_steps))
        asked, writing = agree(stop, store.busy, grid)
        if store.pending and not writing:
            store.publish()
        if is_due(config.checkpoint.every_steps) or asked:
            watch.allow_long_phase()
            recovery.save(progress, watch.to_json())
    watch.allow_long_phase()
    store.publish()
    asked = asked if progress.step < total_steps else None
    kind, what = ("interrupted", f"{asked}: saved") if asked else ("finished", "finished")
    report.event(kind, f"{what} after step {progress.step}", progress.step)
    report.close()
    return asked


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


def load_teacher(
    config: RunConfig, prepared: Prepared, vocabulary: Vocabulary, grid: Grid
) -> Teacher | None:
    """The teacher, where the run has one: for the loss, for evaluation or for both."""
    if config.teacher is None:
        return None
    assert prepared.teacher is not None
    assert prepared.teacher_folder is not None
    return Teacher(config.teacher, prepared.teacher, prepared.teacher_folder, vocabulary, grid)


def describe(config: RunConfig, student: Student, grid: Grid, progress: Progress) -> str:
    """The run in two lines, for its log."""
    teacher = f"teacher {config.teacher.model} tp {grid.tp_size}" if config.teacher else "alone"
    start = f"continues after step {progress.step}" if progress.step else "starts"
    return (
        f"{config.run_dir}: {start}; {config.loss.objective}, {teacher}, student of "
        f"{student.num_parameters / 1e6:.1f} M parameters, ZeRO-{config.zero.stage} over "
        f"{grid.world_size} ranks ({grid.device.type}, {config.precision})\n"
        f"{config.total_steps} steps of {config.global_batch_size} x {config.seq_len} tokens"
    )


def facts(
    config: RunConfig, teacher: Teacher | None, student: Student, grid: Grid
) -> dict[str, float | str]:
    """What the throughput of this start has to be compared with, and what the student learns from.

    The next start may be told otherwise; the model card names them all.
    """
    told: dict[str, float | str] = {"objective": config.loss.objective}
    told |= {"num_ranks": grid.world_size, "device": device_name(grid.device)}
    told["parameters"] = student.num_parameters
    if teacher and config.teacher:
        told |= {"teacher": config.teacher.model, "teacher_parameters": teacher.num_parameters}
    return told


if __name__ == "__main__":
    # By its name: the command stands above the loop.
    sys.exit(import_module("taidscale.commands.dispatch").main(["train", *sys.argv[1:]]))

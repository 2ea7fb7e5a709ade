"""One training run: `deepspeed --module taidscale.train CONFIG [section.setting=value ...]`.

The same command runs under `torchrun -m` and, on one rank, under `python -m`; started again,
it continues from the last checkpoint.
"""

import argparse
import contextlib
import logging
import os
import sys
import traceback
from typing import NoReturn

from taidscale.checkpoint.store import CheckpointStore
from taidscale.config.load import check_world, load_config
from taidscale.config.schema import RunConfig
from taidscale.engine.runtime import adopt_launcher, end_ranks, start_ranks
from taidscale.engine.student import Student
from taidscale.engine.teacher import Teacher
from taidscale.evaluate import evaluate, open_held_out
from taidscale.health.devices import device_name
from taidscale.health.stop import StopRequest, WaitingEnded
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.metrics.profiler import Profiler
from taidscale.metrics.report import Report
from taidscale.parallel.agreement import on_first, together
from taidscale.parallel.grid import AgreedError, Grid
from taidscale.preflight import Prepared
from taidscale.recovery import Recovery
from taidscale.run_folder import fill_run_folder, folder_id, lock_run_folder
from taidscale.run_status import (
    CHECKPOINTS_FOLDER,
    STOP_FILE,
    leave_word,
    newest_step,
    status_at_start,
)
from taidscale.schedules.interpolation import t_schedule
from taidscale.schedules.progress import Progress
from taidscale.start_checks import Checked, check
from taidscale.step import train_step
from taidscale.watch import RunWatch

log = logging.getLogger(__name__)

USER_ERROR, START_AGAIN = 2, os.EX_TEMPFAIL
"""Exit statuses: starting again would not help; it goes on where it was (75)."""


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
    profiler = Profiler(config.profile, config.run_dir, grid.rank, grid.device)
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


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 2 for a user's error, 75 where it wants to go on."""
    parser = argparse.ArgumentParser(prog="taidscale.train", description=__doc__)
    parser.add_argument("config", help="YAML file of the run")
    parser.add_argument("overrides", nargs="*", help="section.setting=value")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # deepspeed adds it
    options = parser.parse_intermixed_args(arguments)
    is_first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("taidscale").setLevel(logging.INFO if is_first else logging.ERROR)
    try:
        world_size, local_world_size = adopt_launcher()
    except ValueError as error:  # alike on all ranks of a node
        return fail(str(error)) if os.environ.get("LOCAL_RANK", "0") == "0" else USER_ERROR
    try:
        config = load_config(options.config, options.overrides)
        check_world(config, world_size, local_world_size)
    except ValueError as error:  # alike on all ranks
        return fail(str(error)) if is_first else USER_ERROR
    stop = StopRequest(config.wall_clock_hours)
    grid = start_ranks(config.teacher.tp_size if config.teacher else 1, config.seed)
    with stop, contextlib.ExitStack() as kept:
        status = run(config, grid, stop, kept)
    end_ranks()
    return status


def run(config: RunConfig, grid: Grid, stop: StopRequest, kept: contextlib.ExitStack) -> int:
    """Check, train, and leave word of how it ended; the exit status.

    Args:
        config: the run.
        grid: all ranks.
        stop: whether this one is asked to end.
        kept: holds the lock on the run's folder.
    """
    run_dir, first = config.run_dir, grid.is_first
    status = None
    try:
        together(grid, lambda: kept.enter_context(lock_run_folder(run_dir)) if first else None)
        together(grid, lambda: stop.obey(run_dir / STOP_FILE) if first else None)
        status = status_at_start(run_dir, newest_step(run_dir))
        start = check(config, grid)
        on_first(grid, lambda: status.write(run_dir))
        with RunWatch(start.config, grid) as watch:
            asked = train(start, grid, stop, watch)
    except AgreedError as error:
        if not first:
            return USER_ERROR
        if status is not None:
            leave_word(run_dir, status, "failed", str(error))
        return fail(str(error))
    except ValueError as error:  # another node may read what this one cannot
        problem = f"rank {grid.rank}: {error}"
        if status is not None:
            leave_word(run_dir, status, "failed", problem)
        if grid.world_size > 1:
            end_at_once(fail(problem))
        return fail(problem)
    except WaitingEnded as ended:  # the others may wait for this rank
        leave_word(
            run_dir, status_at_start(run_dir, newest_step(run_dir)), "interrupted", str(ended)
        )
        print(f"rank {grid.rank}: {ended}", file=sys.stderr)
        end_at_once(START_AGAIN)
    if first and asked:
        leave_word(run_dir, status, "interrupted", asked)
    elif first:
        leave_word(run_dir, status, "finished", f"{config.total_steps} steps")
    return START_AGAIN if asked else 0


def fail(problem: str) -> int:
    """Say it; the exit status."""
    print(f"error: {problem}", file=sys.stderr, flush=True)
    return USER_ERROR


def end_at_once(status: int) -> NoReturn:
    """End this process, though data workers, collectives under way and threads could keep it from
    ending, and the others would wait for it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    try:
        ended = main()
    except Exception:
        traceback.print_exc()
        end_at_once(1)
    sys.exit(ended)

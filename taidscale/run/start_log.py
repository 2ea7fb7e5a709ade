"""What a run's log says of each of its starts."""

from taidscale.config.schema import RunConfig
from taidscale.engine.student import Student
from taidscale.health.devices import device_name
from taidscale.metrics.run_log import RunLog
from taidscale.models.flops import flops_per_token
from taidscale.models.shape import model_shape
from taidscale.parallel.grid import Grid
from taidscale.run.recovery import Continued
from taidscale.run.start_checks import Checked
from taidscale.schedules.progress import Progress
from taidscale.teachers.source import TeacherSource


def open_run_log(
    start: Checked,
    before: Continued | None,
    progress: Progress,
    teacher: TeacherSource | None,
    student: Student,
    grid: Grid,
) -> RunLog:
    """The run's log, which says how this start begins and what is another since the last one."""
    config = start.config
    run_log = RunLog(
        config,
        first_step=progress.step,
        enabled=grid.is_first,
        rolled_back_at=before.rolled_back_at if before else None,
    )
    began = describe(config, student, grid, progress)
    run_log.event("start", began, progress.step, facts(start, teacher, student, grid))
    for remark in start.prepared.vocabulary.remarks:
        run_log.event("vocabulary", remark, progress.step)
    for change in before.changes if before else ():
        run_log.event("changed", change, progress.step)
    return run_log


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
    start: Checked, teacher: TeacherSource | None, student: Student, grid: Grid
) -> dict[str, float | str]:
    """What the throughput of this start has to be compared with, and what the student learns from.

    The next start may be told otherwise; the model card names them all.
    """
    config, prepared = start.config, start.prepared
    told: dict[str, float | str] = {"objective": config.loss.objective}
    told |= {"num_ranks": grid.world_size, "device": device_name(grid.device)}
    told["parameters"] = student.num_parameters
    asked = prepared.teacher if config.learns_from_teacher else None
    told["flops_per_token"] = flops_per_token(
        model_shape(prepared.student), model_shape(asked) if asked else None, config.seq_len
    )
    if teacher and config.teacher:
        told |= {"teacher": config.teacher.model, "teacher_parameters": teacher.num_parameters}
    return told

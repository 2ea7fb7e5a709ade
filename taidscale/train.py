"""One training run: `deepspeed --module taidscale.train CONFIG [section.setting=value ...]`.

The same command runs under `torchrun -m` and, on one rank, under `python -m`; started again,
it continues from the last checkpoint.
"""

import argparse
import contextlib
import logging
import math
import os
import sys

import torch

from taidscale.checkpoint.store import CheckpointStore
from taidscale.config.load import check_world, load_config
from taidscale.config.loss import CrossEntropyLoss
from taidscale.config.schema import RunConfig
from taidscale.data.batches import MicroBatch
from taidscale.data.loader import TrainingLoader
from taidscale.engine.runtime import adopt_launcher, end_ranks, start_ranks
from taidscale.engine.student import Student
from taidscale.engine.teacher import Teacher
from taidscale.evaluate import evaluate, open_held_out
from taidscale.losses.inputs import IGNORED
from taidscale.losses.objective import Objective
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.metrics.report import Report
from taidscale.metrics.sums import LossSums
from taidscale.parallel.grid import AgreedError, Grid
from taidscale.preflight import Prepared, prepare
from taidscale.run_folder import CHECKPOINTS_FOLDER, installed_versions, open_run_folder
from taidscale.schedules.cross_entropy import cross_entropy_weight
from taidscale.schedules.interpolation import t_schedule
from taidscale.schedules.learning_rate import learning_rate
from taidscale.schedules.progress import Progress

log = logging.getLogger(__name__)

USER_ERROR = 2
"""Exit status."""


def train(config: RunConfig, prepared: Prepared, grid: Grid) -> None:
    """Distil until `total_steps`. All ranks call it together.

    Raises:
        ValueError: if something that the user can mend goes wrong; AgreedError where all
            ranks know of it.
    """
    clock = StepClock(grid.device)
    vocabulary = Vocabulary.split(prepared.vocabulary.size, grid.tp_rank, grid.tp_size)
    teacher = load_teacher(config, prepared, vocabulary, grid)
    student = Student(config, vocabulary, grid, clock)
    loader = open_training_data(config, prepared, grid)
    held_out = open_held_out(config, prepared, grid)
    store = CheckpointStore(config.run_dir / CHECKPOINTS_FOLDER, grid, config.checkpoint.keep_last)
    schedule, total_steps = t_schedule(config.loss), config.total_steps
    progress = resume(store, student, loader) or Progress.at_start(schedule)
    report = Report(config, first_step=progress.step, enabled=grid.is_first)
    report.say(describe(config, student, grid, progress))

    def evaluate_if(due: bool) -> None:
        for name, tokens in held_out.items() if due else ():
            figures = evaluate(student, teacher, tokens, grid)
            report.evaluation({"step": progress.step, "t": progress.t, **figures}, name)

    def is_due(every_steps: int) -> bool:
        return progress.step % every_steps == 0 or progress.step == total_steps

    evaluate_if(config.evaluation is not None and config.evaluation.at_start and not progress.step)
    while progress.step < total_steps:
        clock.start_step()
        with clock.waiting("wait"):
            micro_batches = [batch.to(grid.device) for batch in loader.next_step()]
        num_valid, token_weight = count_valid(micro_batches, grid)
        weight = cross_entropy_weight(config.loss, progress.step, total_steps)
        objective = Objective.at(config.loss, t=progress.t, cross_entropy_weight=weight)
        sums = LossSums()
        for batch in micro_batches:
            with clock.section("teacher"):
                tokens = teacher(batch) if teacher and needs_teacher(config) else None
            total, batch_sums = student(batch, tokens, objective)
            del tokens  # [N, Dt], not needed for backward
            student.backward(total * (grid.world_size / (token_weight or 1.0)))
            sums.add(batch_sums)
        rate = learning_rate(config.learning_rate, progress.step, total_steps)
        gradient_norm = student.step(rate)
        metrics = {
            **sums.mean_over_world(grid, num_valid, token_weight),
            "t": progress.t,
            "cross_entropy_weight": weight,
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
        }
        check_finite(metrics, student.stepped, progress, store)
        progress = progress.advance(schedule, metrics, num_valid, total_steps)
        passes = {f"passes/{name}": number for name, number in loader.passes.items()}
        report.step({**progress.metrics(), **metrics, **passes, **clock.end_step(num_valid)})
        evaluate_if(config.evaluation is not None and is_due(config.evaluation.every_steps))
        if is_due(config.checkpoint.every_steps):
            save(store, student, loader, progress)
    report.close()


def needs_teacher(config: RunConfig) -> bool:
    """Whether training steps call the teacher; evaluation does wherever there is one."""
    return not isinstance(config.loss, CrossEntropyLoss)


def check_finite(
    metrics: dict[str, float], stepped: bool, progress: Progress, store: CheckpointStore
) -> None:
    """Stop before weights that a non-finite step has ruined are saved over good ones.

    DeepSpeed itself skips a step whose gradient is not finite; one bad batch costs no more.

    Raises:
        AgreedError: on every rank.
    """
    if math.isfinite(metrics["loss"] + metrics["gradient_norm"]):
        return
    what = (
        f"step {progress.step + 1}: loss {metrics['loss']}, gradient norm "
        f"{metrics['gradient_norm']}"
    )
    if stepped:
        raise AgreedError(
            f"{what}. Nothing of it was saved; the last good checkpoint is {store.latest()}"
        )
    log.warning("%s; the step was skipped, the weights are as before", what)


def load_teacher(
    config: RunConfig, prepared: Prepared, vocabulary: Vocabulary, grid: Grid
) -> Teacher | None:
    """The teacher, where the run has one: for the loss, for evaluation or for both."""
    if config.teacher is None:
        return None
    assert prepared.teacher is not None
    assert prepared.teacher_folder is not None
    return Teacher(config.teacher, prepared.teacher, prepared.teacher_folder, vocabulary, grid)


def open_training_data(config: RunConfig, prepared: Prepared, grid: Grid) -> TrainingLoader:
    """The training samples, at their first."""
    per_micro_batch = config.micro_batch_size * grid.world_size
    return TrainingLoader(
        config.data,
        seq_len=config.seq_len,
        micro_batch_size=config.micro_batch_size,
        grad_accum_steps=config.global_batch_size // per_micro_batch,
        seed=config.seed,
        vocab_size=prepared.vocabulary.size,
    )


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


def save(
    store: CheckpointStore, student: Student, loader: TrainingLoader, progress: Progress
) -> None:
    """Write a checkpoint from which the run continues exactly."""
    facts = {
        "progress": progress.to_json(),
        "data": loader.state_dict(),
        "versions": installed_versions(),
    }
    store.save(progress.step, student.save, facts, student.checkpoint_bytes)


def resume(store: CheckpointStore, student: Student, loader: TrainingLoader) -> Progress | None:
    """Continue from the newest good checkpoint, if there is one."""
    folder = store.latest()
    if folder is None:
        return None
    facts = store.load_facts(folder)
    student.load(folder)
    loader.load_state_dict(facts["data"])
    return Progress.from_json(facts["progress"])


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


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 2 for a user's error."""
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
        config = load_config(options.config, options.overrides)
        check_world(config, world_size, local_world_size)
    except ValueError as error:  # alike on all ranks
        return fail(str(error)) if is_first else USER_ERROR
    grid = start_ranks(config.teacher.tp_size if config.teacher else 1, config.seed)
    try:
        with contextlib.ExitStack() as kept:
            train(config, prepare_together(config, grid, kept), grid)
    except AgreedError as error:
        return fail(str(error)) if is_first else USER_ERROR
    except ValueError as error:  # the launcher ends the ranks that wait for this one
        return fail(f"rank {grid.rank}: {error}")
    finally:
        end_ranks()
    return 0


def prepare_together(config: RunConfig, grid: Grid, kept: contextlib.ExitStack) -> Prepared:
    """Check everything on every rank, and open the run's folder.

    Args:
        config: the run.
        grid: all ranks.
        kept: holds the lock on the folder.

    Raises:
        AgreedError: with the problem of the first rank that has one.
    """
    prepared, problem = None, None
    try:
        prepared = prepare(config)
        if lock := open_run_folder(config, prepared, grid):
            kept.enter_context(lock)
    except ValueError as error:
        problem = str(error)
    except Exception as error:  # whatever it is, the other ranks must hear of it
        log.exception("rank %d", grid.rank)
        problem = repr(error)
    if problem := grid.first_problem(problem):
        raise AgreedError(problem)
    assert prepared is not None
    return prepared


def fail(problem: str) -> int:
    """Say it; the exit status."""
    print(f"error: {problem}", file=sys.stderr, flush=True)
    return USER_ERROR


if __name__ == "__main__":
    sys.exit(main())

"""All checks of a cluster, one after the other."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig

from taidscale.config.schema import RunConfig
from taidscale.file_names import CHECKPOINTS_FOLDER
from taidscale.health.node_findings import find_problems
from taidscale.health.node_findings import table as node_table
from taidscale.health.nodes import look_at_nodes
from taidscale.losses.objective import Objective
from taidscale.models.families import logit_softcap, model_folder, read_model_config
from taidscale.models.load import check_weights
from taidscale.models.student import DTYPES, student_config
from taidscale.models.vocabulary import agree_on_vocabulary
from taidscale.models.weights import find_weights
from taidscale.parallel.grid import Grid
from taidscale.schedules.cross_entropy import cross_entropy_weight
from taidscale.schedules.interpolation import initial_t, t_schedule
from taidscale.teachers.trunk import compute_type
from taidscale.verification.finding import Finding
from taidscale.verification.head import HeadSizes, check_head
from taidscale.verification.small_run import check_small_run
from taidscale.verification.trunk import check_trunk


@dataclass(frozen=True)
class Models:
    """What the run's models are like."""

    student: PretrainedConfig
    teacher: PretrainedConfig | None
    teacher_folder: Path | None
    vocab_size: int


def read_models(config: RunConfig) -> Models:
    """Read the configurations and tokenizers that the run names; no data, no weights.

    Raises:
        ValueError: if one is missing or they do not fit.
    """
    folder = teacher = None
    if config.teacher is not None:
        folder = model_folder(config.teacher.model, config.teacher.revision, "teacher.model")
        teacher = read_model_config(folder, "teacher.model")
        check_weights(teacher, find_weights(folder, "teacher.model"), "teacher.model")
    student = student_config(config)
    return Models(student, teacher, folder, agree_on_vocabulary(config, teacher, student).size)


def run_checks(
    config: RunConfig, models: Models, grid: Grid, local_rank: int, say: Callable[[str], None]
) -> tuple[list[Finding], list[str]]:
    """Check everything. All ranks call it together.

    Args:
        config: of the run.
        models: see `read_models`.
        grid: all ranks, with the run's tp_groups.
        local_rank: place of this rank in its node.
        say: hears what is being done; on every rank.

    Returns:
        What was found, and a table of the nodes; equal on all ranks.
    """
    findings: list[Finding] = []

    def check(what: str, act: Callable[[], list[Finding]]) -> None:
        started = time.perf_counter()
        findings.extend(act())
        say(f"{what}: {time.perf_counter() - started:.1f} s")

    t = initial_t(t_schedule(config.loss)).t
    weight = cross_entropy_weight(config.loss, 0, config.total_steps)
    objective = Objective.at(config.loss, t=t, cross_entropy_weight=weight)
    check("loss and gradients", lambda: check_head(objective, _sizes(config, models), grid))
    if config.teacher is not None:
        teacher, architecture, folder = config.teacher, models.teacher, models.teacher_folder
        assert architecture is not None
        assert folder is not None
        check(
            "teacher's layers",
            lambda: check_trunk(
                teacher, architecture, folder, models.vocab_size, config.seq_len, grid
            ),
        )
    check(
        "training steps",
        lambda: check_small_run(config, models.teacher, models.student, grid),
    )
    started = time.perf_counter()
    reports = look_at_nodes(grid, local_rank, config.run_dir / CHECKPOINTS_FOLDER)
    problems = find_problems(reports, 0, config.health.slow_rank_ratio)
    culprit = "; ".join(problems) or None
    findings.append(
        Finding("nodes: versions, speeds, clocks", f"{len(problems)} problems", "0", culprit)
    )
    say(f"nodes: {time.perf_counter() - started:.1f} s")
    return findings, node_table(reports)


def _sizes(config: RunConfig, models: Models) -> HeadSizes:
    teacher = models.teacher if config.learns_from_teacher else None
    dtype = DTYPES[config.precision]
    return HeadSizes(
        models.vocab_size,
        models.student.hidden_size,
        teacher.hidden_size if teacher else None,
        dtype,
        compute_type(config.teacher.dtype) if config.teacher else dtype,
        config.loss.chunk_tokens,
        logit_softcap(models.student),
        logit_softcap(teacher) if teacher else None,
    )

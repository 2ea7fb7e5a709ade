"""What must hold before any weights are loaded."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig

from taidscale.config.schema import RunConfig
from taidscale.data.shards import check_shards
from taidscale.engine.teacher import warn_of_uneven_heads
from taidscale.models.families import model_folder, read_model_config
from taidscale.models.student import student_config
from taidscale.models.vocabulary import VocabularyContract, agree_on_vocabulary
from taidscale.models.weights import find_weights


@dataclass(frozen=True)
class Prepared:
    """What the checks found out."""

    vocabulary: VocabularyContract
    teacher_folder: Path | None
    teacher: PretrainedConfig | None
    student: PretrainedConfig


def prepare(config: RunConfig) -> Prepared:
    """Read every configuration, tokenizer and manifest that the run names, and compare them.

    Raises:
        ValueError: with all problems that do not hide each other, a line each.
    """
    folder = teacher = student = vocabulary = None
    problems: list[str] = []
    try:
        if config.teacher is not None:
            folder = model_folder(config.teacher.model, config.teacher.revision, "teacher.model")
            teacher = read_model_config(folder, "teacher.model")
            warn_of_uneven_heads(teacher, config.teacher.tp_size)
            find_weights(folder, "teacher.model")
    except ValueError as error:
        problems.append(str(error))
    try:
        student = student_config(config)
        vocabulary = agree_on_vocabulary(config, teacher, student)
    except ValueError as error:
        problems.append(str(error))
    problems += _data_problems(config, vocabulary)
    if problems:
        raise ValueError("\n  ".join(dict.fromkeys(problems)))
    assert student is not None
    assert vocabulary is not None
    return Prepared(vocabulary, folder, teacher, student)


def _data_problems(config: RunConfig, vocabulary: VocabularyContract | None) -> list[str]:
    folders = [
        (f"data.streams.{number}.local", stream.local)
        for number, stream in enumerate(config.data.streams)
        if stream.remote is None  # else the shards come when they are needed
    ]
    if config.evaluation is not None:
        folders.append(("evaluation.data", config.evaluation.data))
    problems = []
    for setting, folder in folders:
        try:
            check_shards(
                Path(folder),
                seq_len=config.seq_len,
                fingerprint=vocabulary.fingerprint if vocabulary else None,
                vocab_size=vocabulary.size if vocabulary else 2**32,
            )
        except ValueError as error:
            problems.append(f"{setting}: {error}")
    return problems

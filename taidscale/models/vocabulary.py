"""The vocabulary that teacher, student and data must share.

The loss runs over the real vocabulary, the entries of the tokenizer. Heads may be padded
beyond it, each model's differently (Qwen2.5: 151,665 entries in heads of 151,936 and 152,064).
"""

from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig

from taidscale.config.schema import FreshInit, PretrainedInit, RunConfig
from taidscale.data.tokenizer import Tokenizer, fingerprint, load_tokenizer
from taidscale.models.families import model_folder


@dataclass(frozen=True)
class VocabularyContract:
    """What everybody agreed on."""

    tokenizer: Tokenizer
    """The student's; exported with it."""
    size: int
    """Entries of the real vocabulary."""
    fingerprint: str
    """Of its entries; the data must have the same."""


def agree_on_vocabulary(
    config: RunConfig, teacher: PretrainedConfig | None, student: PretrainedConfig
) -> VocabularyContract:
    """Compare the tokenizers entry by entry, and the heads with them.

    Raises:
        ValueError: if they differ (naming entries that do), or a head is too small.
    """
    teacher_folder = None
    if config.teacher is not None:
        teacher_folder = model_folder(
            config.teacher.model, config.teacher.revision, "teacher.model"
        )
    student_folder = _student_tokenizer_folder(config, teacher_folder)
    tokenizer = load_tokenizer(str(student_folder))
    if teacher_folder is not None and teacher_folder != student_folder:
        _compare(load_tokenizer(str(teacher_folder)), tokenizer)
    for setting, model in (("teacher.model", teacher), ("student", student)):
        if model is not None and model.vocab_size < tokenizer.size:
            raise ValueError(
                f"{setting}: its head has {model.vocab_size} rows, the tokenizer "
                f"{tokenizer.name} {tokenizer.size} entries"
            )
    return VocabularyContract(tokenizer, tokenizer.size, fingerprint(tokenizer.vocabulary()))


def _student_tokenizer_folder(config: RunConfig, teacher: Path | None) -> Path:
    student = config.student
    if student.tokenizer is not None:
        return model_folder(student.tokenizer, None, "student.tokenizer", with_weights=False)
    match student.init:
        case PretrainedInit():
            return model_folder(student.init.model, student.init.revision, "student.init.model")
        case FreshInit():
            name, revision = student.init.config, student.init.revision
            folder = model_folder(name, revision, "student.init.config", with_weights=False)
            if (folder / "tokenizer_config.json").is_file():
                return folder
    if teacher is None:
        raise ValueError("student.tokenizer: set it; there is none beside the student's config")
    return teacher


def _compare(teacher: Tokenizer, student: Tokenizer) -> None:
    theirs, ours = teacher.vocabulary(), student.vocabulary()
    if theirs == ours:
        return
    differing = sorted(
        token for token in theirs.keys() | ours.keys() if theirs.get(token) != ours.get(token)
    )
    examples = "; ".join(
        f"{token!r} is {_id(theirs.get(token))} there, {_id(ours.get(token))} here"
        for token in differing[:3]
    )
    raise ValueError(
        f"the tokenizers of the teacher ({teacher.name}, {teacher.size} entries) and the student "
        f"({student.name}, {student.size} entries) differ in {len(differing)} entries: "
        f"{examples}. Distillation over logits needs the same vocabulary: choose a teacher and a "
        "student of one family, or train the student from scratch with the teacher's tokenizer"
    )


def _id(value: int | None) -> str:
    return "absent" if value is None else f"id {value}"

"""The vocabulary that teacher, student and data must share.

The loss runs over the real vocabulary, the entries of the tokenizer. Heads may be padded
beyond it, each model's differently (Qwen2.5: 151,665 entries in heads of 151,936 and 152,064).
Where both share only a prefix of ids, entries beyond it are treated as that padding is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PretrainedConfig

from taidscale.config.schema import FreshInit, PretrainedInit, RunConfig
from taidscale.data.same_ids import compare_ids
from taidscale.data.tokenizer import Tokenizer, fingerprint, load_tokenizer
from taidscale.models.families import model_folder

_NUM_SHOWN = 3


@dataclass(frozen=True)
class VocabularyContract:
    """What everybody agreed on."""

    tokenizer: Tokenizer
    """The student's; exported with it, whole."""
    size: int
    """Ids that mean the same to teacher and student; the loss runs over them, data hold no others.

    Of a student alone, and of equal vocabularies, all.
    """
    fingerprint: str
    """Of all entries of the student's tokenizer; the data must have the same."""
    left_out: Mapping[int, str] = field(default_factory=dict)
    """Entries of the student's tokenizer beyond `size`, by id."""
    remarks: tuple[str, ...] = ()
    """What a person should know of it, a sentence each."""


def agree_on_vocabulary(
    config: RunConfig, teacher: PretrainedConfig | None, student: PretrainedConfig
) -> VocabularyContract:
    """Compare the tokenizers entry by entry, and the heads with them.

    Raises:
        ValueError: if they differ in more than `teacher.vocabulary` allows (naming entries that
            do), give texts other ids, or a head is too small.
    """
    teacher_folder = None
    if config.teacher is not None:
        teacher_folder = model_folder(
            config.teacher.model, config.teacher.revision, "teacher.model"
        )
    student_folder = _student_tokenizer_folder(config, teacher_folder)
    ours = load_tokenizer(str(student_folder))
    entries = ours.vocabulary()
    size = ours.size
    remarks: tuple[str, ...] = ()
    if config.teacher is not None and teacher_folder not in (None, student_folder):
        theirs = load_tokenizer(str(teacher_folder))
        size = _shared_size(theirs, ours, config.teacher.vocabulary)
        remarks = _remarks(theirs, ours, size)
    for setting, model, rows in (("teacher.model", teacher, size), ("student", student, ours.size)):
        if model is not None and model.vocab_size < rows:
            raise ValueError(
                f"{setting}: its head has {model.vocab_size} rows, the tokenizer {ours.name} "
                f"{rows} entries" + (" that both models share" if rows < ours.size else "")
            )
    left_out = {index: token for token, index in entries.items() if index >= size}
    return VocabularyContract(ours, size, fingerprint(entries), left_out, remarks)


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


def shared_prefix(teacher: Tokenizer, student: Tokenizer) -> int:
    """How many leading ids mean the same to both.

    Raises:
        ValueError: if an entry beyond them is no added or reserved token, so that texts hold it;
            or if they are fewer than half of the larger vocabulary.
    """
    size = _num_equal(teacher, student)
    largest = max(teacher.size, student.size)
    if 2 * size < largest:
        names = [_token(each, size) for each in (teacher, student)]
        raise ValueError(
            f"only the first {size:,} of {largest:,} ids mean the same to teacher ({teacher.name}) "
            f"and student ({student.name}), and half of them must: id {size} is {names[0]} there, "
            f"{names[1]} here"
        )
    for role, tokenizer in (("teacher", teacher), ("student", student)):
        beyond, reserved = _entries_from(tokenizer, size), tokenizer.reserved_ids
        ordinary = {index: token for index, token in beyond.items() if index not in reserved}
        if ordinary:
            raise ValueError(
                f"{len(ordinary):,} of the {len(beyond):,} entries of the {role} "
                f"({tokenizer.name}) beyond the {size:,} that both share are no added or reserved "
                f"tokens, so that texts hold them: {_some(ordinary)}"
            )
    return size


def _shared_size(teacher: Tokenizer, student: Tokenizer, vocabulary: str) -> int:
    """As `teacher.vocabulary` has it."""
    if vocabulary == "equal":
        theirs, ours = teacher.vocabulary(), student.vocabulary()
        if theirs != ours:
            raise ValueError(_difference(teacher, student))
        return student.size
    try:
        return shared_prefix(teacher, student)
    except ValueError as error:
        raise ValueError(f"teacher.vocabulary: shared_prefix, but {error}. {_REMEDY}") from None


_REMEDY = (
    "Distillation over logits needs the same vocabulary: choose a teacher and a student of one "
    "family, or train the student from scratch with the teacher's tokenizer; of other teachers "
    "a student learns by text that they wrote, with loss.objective: cross_entropy"
)


def _difference(teacher: Tokenizer, student: Tokenizer) -> str:
    """Why two tokenizers are not equal, and what helps."""
    theirs, ours = teacher.vocabulary(), student.vocabulary()
    differing = sorted(
        token for token in theirs.keys() | ours.keys() if theirs.get(token) != ours.get(token)
    )
    examples = "; ".join(
        f"{token!r} is {_id(theirs.get(token))} there, {_id(ours.get(token))} here"
        for token in differing[:_NUM_SHOWN]
    )
    said = (
        f"the tokenizers of the teacher ({teacher.name}, {teacher.size} entries) and the student "
        f"({student.name}, {student.size} entries) differ in {len(differing)} entries: {examples}. "
    )
    try:
        size = shared_prefix(teacher, student)
    except ValueError:
        return said + _REMEDY
    return (
        f"{said}All of them are added or reserved tokens behind the first {size:,} ids: set "
        "teacher.vocabulary to shared_prefix, and the loss runs over those, with data that hold "
        "no others"
    )


def _remarks(teacher: Tokenizer, student: Tokenizer, size: int) -> tuple[str, ...]:
    """What to say at the start.

    Raises:
        ValueError: if texts have other ids.
    """
    remarks = []
    if other := compare_ids(teacher, student, size):
        remarks.append(
            f"the tokenizers of teacher and student are written differently ({', '.join(other)}); "
            "the texts that were tried have the same ids"
        )
    beyond = [_entries_from(each, size) for each in (teacher, student)]
    if any(beyond):
        left_out = [
            f"{len(entries):,} of the {role}" + (f" ({_some(entries)})" if entries else "")
            for role, entries in zip(("teacher", "student"), beyond, strict=True)
        ]
        remarks.append(
            f"teacher and student share the first {size:,} ids, over which the loss runs; left "
            f"out are {' and '.join(left_out)}"
        )
    return tuple(remarks)


def _num_equal(teacher: Tokenizer, student: Tokenizer) -> int:
    differing = teacher.vocabulary().items() ^ student.vocabulary().items()
    return min((index for _, index in differing), default=student.size)


def _entries_from(tokenizer: Tokenizer, first: int) -> dict[int, str]:
    entries = sorted((k, token) for token, k in tokenizer.vocabulary().items() if k >= first)
    return dict(entries)


def _token(tokenizer: Tokenizer, index: int) -> str:
    token = next((token for token, k in tokenizer.vocabulary().items() if k == index), None)
    return "absent" if token is None else repr(token)


def _some(entries: Mapping[int, str]) -> str:
    shown = [f"{token!r} {index}" for index, token in [*entries.items()][:_NUM_SHOWN]]
    return ", ".join(shown + ["..."] * (len(entries) > _NUM_SHOWN))


def _id(value: int | None) -> str:
    return "absent" if value is None else f"id {value}"

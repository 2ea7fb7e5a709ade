"""Teacher and student must have one vocabulary; heads may be padded beyond it, not shorter."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerFast

from taidscale.config.schema import RunConfig
from taidscale.data.tokenizer import fingerprint, load_tokenizer
from taidscale.models.vocabulary import VocabularyContract, agree_on_vocabulary

WORDS = [f"w{number}" for number in range(20)]


def save_tokenizer(folder: Path, words: list[str], **settings: Any) -> Path:
    """One token per word, `<end>` as the first."""
    entries = {word: index for index, word in enumerate(["<end>", *words])}
    tokenizer = Tokenizer(models.WordLevel(entries, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", **settings)
    fast.save_pretrained(folder)
    return folder


def head(rows: int) -> PretrainedConfig:
    return AutoConfig.for_model("llama", vocab_size=rows)


def run_config(teacher: Path | None, student: dict[str, Any], **of_student: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run_dir": "run",
            "total_steps": 1,
            "seq_len": 8,
            "micro_batch_size": 1,
            "global_batch_size": 1,
            "teacher": {"model": str(teacher)} if teacher else None,
            "student": {"init": student, **of_student},
            "loss": {"objective": "forward_kl" if teacher else "cross_entropy"},
            "learning_rate": {"schedule": "constant", "peak": 1e-3},
            "data": {"streams": [{"local": "shards"}]},
            "checkpoint": {"every_steps": 1},
        }
    )


def agree(
    teacher: Path, student: Path, *, teacher_rows: int = 21, student_rows: int = 21
) -> VocabularyContract:
    config = run_config(teacher, {"source": "pretrained", "model": str(student)})
    return agree_on_vocabulary(config, head(teacher_rows), head(student_rows))


def test_equal_tokenizers_pass(tmp_path: Path) -> None:
    teacher = save_tokenizer(tmp_path / "teacher", WORDS, model_max_length=99)
    student = save_tokenizer(tmp_path / "student", WORDS, chat_template="{{ x }}")
    contract = agree(teacher, student)
    assert contract.size == 21
    assert contract.tokenizer.name == str(student)
    assert contract.fingerprint == fingerprint(load_tokenizer(str(teacher)).vocabulary())


@pytest.mark.parametrize(("teacher_rows", "student_rows"), [(21, 32), (40, 24), (64, 21)])
def test_heads_padded_differently_pass(
    tmp_path: Path, teacher_rows: int, student_rows: int
) -> None:
    folder = save_tokenizer(tmp_path / "teacher", WORDS)
    other = save_tokenizer(tmp_path / "student", WORDS)
    contract = agree(folder, other, teacher_rows=teacher_rows, student_rows=student_rows)
    assert contract.size == 21


def test_one_entry_that_differs_is_named(tmp_path: Path) -> None:
    teacher = save_tokenizer(tmp_path / "teacher", WORDS)
    student = save_tokenizer(tmp_path / "student", [*WORDS[:7], "other", *WORDS[8:]])
    with pytest.raises(ValueError, match="differ in 2 entries") as caught:
        agree(teacher, student)
    message = str(caught.value)
    assert "'other' is absent there, id 8 here" in message
    assert "'w7' is id 8 there, absent here" in message
    assert str(teacher) in message
    assert str(student) in message


def test_ids_that_are_swapped_are_named(tmp_path: Path) -> None:
    """The same tokens in another order: a comparison of sets would pass."""
    teacher = save_tokenizer(tmp_path / "teacher", WORDS)
    student = save_tokenizer(tmp_path / "student", [WORDS[1], WORDS[0], *WORDS[2:]])
    with pytest.raises(ValueError, match="differ in 2 entries") as caught:
        agree(teacher, student)
    assert "'w0' is id 1 there, id 2 here" in str(caught.value)


def test_one_entry_more_is_named(tmp_path: Path) -> None:
    """One is a prefix of the other: a comparison of the shared entries would pass."""
    teacher = save_tokenizer(tmp_path / "teacher", [*WORDS, "more"])
    student = save_tokenizer(tmp_path / "student", WORDS)
    with pytest.raises(ValueError, match="'more' is id 21 there, absent here"):
        agree(teacher, student, teacher_rows=22, student_rows=22)


def test_many_entries_that_differ_are_counted_not_listed(tmp_path: Path) -> None:
    teacher = save_tokenizer(tmp_path / "teacher", WORDS)
    student = save_tokenizer(tmp_path / "student", [f"x{word}" for word in WORDS])
    with pytest.raises(ValueError, match="differ in 40 entries") as caught:
        agree(teacher, student)
    assert str(caught.value).count(" there, ") == 3


def test_head_smaller_than_the_tokenizer(tmp_path: Path) -> None:
    teacher = save_tokenizer(tmp_path / "teacher", WORDS)
    student = save_tokenizer(tmp_path / "student", WORDS)
    wanted = "^teacher.model: its head has 20 rows, the tokenizer .* 21 entries"
    with pytest.raises(ValueError, match=wanted):
        agree(teacher, student, teacher_rows=20)
    with pytest.raises(ValueError, match=r"^student: its head has 20 rows, the tokenizer .* 21"):
        agree(teacher, student, student_rows=20)


def test_without_its_own_the_student_has_the_teachers(tmp_path: Path) -> None:
    teacher = save_tokenizer(tmp_path / "teacher", WORDS)
    bare = tmp_path / "bare"
    head(21).save_pretrained(bare)
    for init in (
        {"source": "teacher_layers", "layers": [0]},
        {"source": "fresh", "config": str(bare)},
    ):
        contract = agree_on_vocabulary(run_config(teacher, init), head(21), head(21))
        assert contract.tokenizer.name == str(teacher)


def test_the_one_beside_a_fresh_students_config_counts(tmp_path: Path) -> None:
    teacher = save_tokenizer(tmp_path / "teacher", WORDS)
    fresh = save_tokenizer(tmp_path / "fresh", WORDS[::-1])
    config = run_config(teacher, {"source": "fresh", "config": str(fresh)})
    with pytest.raises(ValueError, match="differ in 20 entries"):
        agree_on_vocabulary(config, head(21), head(21))


def test_the_named_tokenizer_counts_most(tmp_path: Path) -> None:
    teacher = save_tokenizer(tmp_path / "teacher", WORDS)
    student = save_tokenizer(tmp_path / "student", WORDS[::-1])
    named = save_tokenizer(tmp_path / "named", WORDS)
    init = {"source": "pretrained", "model": str(student)}
    contract = agree_on_vocabulary(
        run_config(teacher, init, tokenizer=str(named)), head(21), head(21)
    )
    assert contract.tokenizer.name == str(named)
    with pytest.raises(ValueError, match=r"^student.tokenizer: there is no folder"):
        agree_on_vocabulary(
            run_config(teacher, init, tokenizer=str(tmp_path / "absent")), head(21), head(21)
        )


def test_alone(tmp_path: Path) -> None:
    student = save_tokenizer(tmp_path / "student", WORDS)
    config = run_config(None, {"source": "pretrained", "model": str(student)})
    assert agree_on_vocabulary(config, None, head(30)).size == 21
    bare = tmp_path / "bare"
    head(21).save_pretrained(bare)
    config = run_config(None, {"source": "fresh", "config": str(bare)})
    with pytest.raises(ValueError, match=r"^student.tokenizer: set it"):
        agree_on_vocabulary(config, None, head(21))

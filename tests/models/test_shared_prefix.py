"""Vocabularies of which only the leading ids mean the same, and what is asked of the others."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from taidscale.config.schema import RunConfig
from taidscale.data.tokenizer import fingerprint, load_tokenizer
from taidscale.models.vocabulary import VocabularyContract, agree_on_vocabulary
from tests.models.test_vocabulary import head, run_config

WORDS = [f"w{number}" for number in range(20)]


def save(
    folder: Path, words: list[str], special: tuple[str, ...] = (), plain: tuple[str, ...] = ()
) -> Path:
    """A token per word, `<end>` as the first; then added ones, special or not."""
    entries = {word: index for index, word in enumerate(["<end>", *words])}
    tokenizer = Tokenizer(models.WordLevel(entries, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([*special])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in plain])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.save_pretrained(folder)
    return folder


def shared(teacher: Path, student: Path, **settings: Any) -> RunConfig:
    config = run_config(teacher, {"source": "pretrained", "model": str(student)})
    assert config.teacher is not None
    of_teacher = config.teacher.model_copy(update={"vocabulary": "shared_prefix", **settings})
    return config.model_copy(update={"teacher": of_teacher})


def agree(teacher: Path, student: Path, *rows: int, **settings: Any) -> VocabularyContract:
    teacher_rows, student_rows = rows or (64, 64)
    config = shared(teacher, student, **settings)
    return agree_on_vocabulary(config, head(teacher_rows), head(student_rows))


@pytest.fixture
def more(tmp_path: Path) -> Path:
    return save(tmp_path / "more", WORDS, ("<pad>", "<tool>"), ("<think>", "</think>"))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    return save(tmp_path / "bare", WORDS)


def test_a_teacher_with_added_tokens(more: Path, bare: Path) -> None:
    contract = agree(more, bare)
    assert contract.size == 21
    assert not contract.left_out
    (remark,) = contract.remarks
    assert "share the first 21 ids, over which the loss runs" in remark
    assert "4 of the teacher ('<pad>' 21, '<tool>' 22, '<think>' 23, ...)" in remark
    assert "0 of the student" in remark


def test_a_student_with_added_tokens_keeps_them(more: Path, bare: Path) -> None:
    contract = agree(bare, more)
    assert contract.size == 21
    assert contract.left_out == {21: "<pad>", 22: "<tool>", 23: "<think>", 24: "</think>"}
    assert contract.tokenizer.name == str(more)
    assert contract.fingerprint == fingerprint(load_tokenizer(str(more)).vocabulary())


def test_equal_vocabularies_are_a_prefix_of_each_other(tmp_path: Path, more: Path) -> None:
    other = save(tmp_path / "other", WORDS, ("<pad>", "<tool>"), ("<think>", "</think>"))
    contract = agree(more, other)
    assert (contract.size, contract.remarks, contract.left_out) == (25, (), {})


def test_reserved_tokens_with_other_names(tmp_path: Path) -> None:
    """As in Llama 3 and 3.1: what lies behind the first that differs is left out too."""
    first = save(tmp_path / "first", WORDS, ("<a>", "<reserved 0>", "<c>"))
    second = save(tmp_path / "second", WORDS, ("<a>", "<pad>", "<c>"))
    contract = agree(first, second)
    assert contract.size == 22
    assert contract.left_out == {22: "<pad>", 23: "<c>"}


def test_heads(more: Path, bare: Path) -> None:
    """A teacher computes the shared ids only, a student is exported with all of its own."""
    assert agree(bare, more, 21, 25).size == 21
    assert agree(more, bare, 21, 21).size == 21
    with pytest.raises(ValueError, match=r"^teacher.model: its head has 20 rows, .* 21 entries"):
        agree(bare, more, 20, 25)
    with pytest.raises(ValueError, match=r"^student: its head has 24 rows, the tokenizer .* 25"):
        agree(bare, more, 21, 24)


def test_equal_names_the_option_where_it_helps(tmp_path: Path, more: Path, bare: Path) -> None:
    with pytest.raises(ValueError, match="differ in 4 entries") as caught:
        agree(more, bare, vocabulary="equal")
    assert "set teacher.vocabulary to shared_prefix" in str(caught.value)
    longer = save(tmp_path / "longer", [*WORDS, "word"])
    with pytest.raises(ValueError, match="differ in 1 entries") as caught:
        agree(longer, bare, vocabulary="equal")
    assert "shared_prefix" not in str(caught.value)
    assert "loss.objective: cross_entropy" in str(caught.value)


def test_an_ordinary_token_beyond_the_prefix(tmp_path: Path, bare: Path) -> None:
    longer = save(tmp_path / "longer", [*WORDS, "word"], ("<pad>",))
    says = r"^teacher.vocabulary: shared_prefix, but 1 of the 2 entries of the {} .* 'word' 21\. "
    with pytest.raises(ValueError, match=says.format("teacher")):
        agree(longer, bare)
    with pytest.raises(ValueError, match=says.format("student")):
        agree(bare, longer)


def test_ordinary_tokens_that_differ(tmp_path: Path, bare: Path) -> None:
    other = save(tmp_path / "other", [*WORDS[:15], "other", *WORDS[16:]])
    says = r"5 of the 5 entries of the teacher .* beyond the 16 that .*: 'other' 16, 'w16' 17"
    with pytest.raises(ValueError, match=says):
        agree(other, bare)


def test_ordinary_tokens_behind_a_special_one_that_differs(tmp_path: Path) -> None:
    """They agree, yet the loss would leave them out."""
    roomy = [*WORDS[:15], "<a>", *WORDS[15:]]
    first, second = (save(tmp_path / name, roomy) for name in ("first", "second"))
    for folder, name in ((first, "<a>"), (second, "<b>")):
        text = (folder / "tokenizer.json").read_text().replace('"<a>"', f'"{name}"')
        (folder / "tokenizer.json").write_text(text)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"additional_special_tokens": [name]})
        tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"5 of the 6 entries .* beyond the 16 .*: 'w15' 17"):
        agree(first, second)


def test_too_short_a_prefix(tmp_path: Path) -> None:
    """All that differs is special; half of the ids would have no loss."""
    many = tuple(f"<{number}>" for number in range(22))
    first, second = save(tmp_path / "first", WORDS), save(tmp_path / "second", WORDS, many)
    says = r"shared_prefix, but only the first 21 of 43 ids .* id 21 is '<0>' there, absent here"
    with pytest.raises(ValueError, match=says):
        agree(second, first)
    fewer = save(tmp_path / "fewer", WORDS, many[:21])
    assert agree(fewer, first).size == 21


@pytest.mark.parametrize("vocabulary", ["equal", "shared_prefix"])
def test_the_same_entries_and_other_merges(tmp_path: Path, vocabulary: str) -> None:
    entries = {piece: index for index, piece in enumerate(["<end>", *"abc", "ab", "bc"])}
    folders = []
    for name, merges in (("first", [("a", "b"), ("b", "c")]), ("second", [("b", "c"), ("a", "b")])):
        tokenizer = Tokenizer(models.BPE(vocab=entries, merges=merges, unk_token="<end>"))
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
        fast.save_pretrained(tmp_path / name)
        folders.append(tmp_path / name)
    assert agree(folders[0], folders[0], vocabulary=vocabulary).size == 6
    with pytest.raises(ValueError, match=r"cut texts .*: merge 1 is 'a' \+ 'b' there, 'b' \+ 'c'"):
        agree(*folders, vocabulary=vocabulary)


@pytest.mark.parametrize("first", ["teacher", "student"])
def test_real_tokenizers(real_material: Path, tmp_path: Path, first: str) -> None:
    """Qwen2.5 and Qwen3, whose tokenizer has four entries more."""
    folder = real_material / "tokenizers" / "qwen2.5"
    newer = AutoTokenizer.from_pretrained(folder)
    extra = ["<tool_response>", "</tool_response>", "<think>", "</think>"]
    newer.add_tokens([AddedToken(token, special=False, normalized=False) for token in extra])
    newer.save_pretrained(tmp_path)
    config = AutoConfig.for_model("llama", vocab_size=151_936)
    teacher, student = (tmp_path, folder) if first == "teacher" else (folder, tmp_path)
    contract = agree_on_vocabulary(shared(teacher, student), config, config)
    assert contract.size == 151_665
    assert sorted(contract.left_out) == ([*range(151_665, 151_669)] if first == "student" else [])

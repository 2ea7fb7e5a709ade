"""Passages of texts and of shards."""

from pathlib import Path

import pytest

from taidscale.assessment.held_out_text import Cutting, Domain, read_domain, text_notes
from taidscale.corpus.in_memory import write_shards
from taidscale.data.tokenizer import load_tokenizer
from tests.assessment.exported import save_exported, subject_of
from tests.data.test_unknown import save_characters


def test_passages_come_from_all_over(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("|".join(f"{k:03d} " * 10 for k in range(100)))
    found = read_domain(f"x={path}", [], Cutting(4, 20, split_on="|")).passages
    assert len(found) == 4
    assert all(len(passage) <= 20 for passage in found)
    assert [int(passage[:3]) // 25 for passage in found] == [0, 1, 2, 3]
    everything = read_domain(f"x={path}", [], Cutting(1000, 20, split_on="|")).passages
    numbers = path.read_text().replace("|", " ").split()
    assert "".join("".join(everything).split()) == "".join(numbers)


def test_shards_become_text_again(tmp_path: Path) -> None:
    folder = save_exported(tmp_path / "model", seed=0)
    subject = subject_of("after", folder)
    texts = ["日本語の長い文章です。" * 3, "short", "third text"]
    write_shards(texts, load_tokenizer(str(folder)), 40, tmp_path / "shards", packing="best_fit")
    (tmp_path / "model").rename(tmp_path / "moved")  # the tokenizer is that of a subject
    subject = subject_of("after", tmp_path / "moved")
    found = read_domain(f"x={tmp_path / 'shards'}", [subject], Cutting(100, 1000)).passages
    assert "�" not in "".join(found)
    assert {"short", "third text"} <= {*found}
    assert "日本語の長い文章です。" in "".join(found)


@pytest.mark.parametrize(
    ("entry", "says"),
    [("x", "write NAME=PATH"), ("x=nowhere.txt", "no file matches"), ("x=empty.txt", "no text")],
)
def test_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n")
    with pytest.raises(ValueError, match=says):
        read_domain(entry, [], Cutting(4, 20))


def test_no_option_is_named_that_evaluations_lack(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("broken")
    with pytest.raises(ValueError, match=r"line 1: broken JSON .*correct the line$"):
        read_domain(f"x={tmp_path / 'a.jsonl'}", [], Cutting(4, 20))


def test_what_must_be_said_of_text(tmp_path: Path) -> None:
    folder = save_exported(tmp_path / "model", seed=0)
    tokenizer = load_tokenizer(str(folder))
    write_shards(["some text of two samples"], tokenizer, 8, tmp_path / "shards")
    subject = subject_of("after", folder)
    shards = read_domain(f"x={tmp_path / 'shards'}", [subject], Cutting(100, 1000))
    assert shards.seq_len == 8
    (note,) = text_notes([shards, Domain("y", ("text",))], [subject])
    assert note.startswith("x is text out of shards: ")
    assert "windows of 8 tokens at most" in note
    assert "a run's teacher_kl is over whole samples, and is another figure" in note
    save_characters(folder)
    (note,) = text_notes([Domain("y", ("known", "猫"))], [subject_of("after", folder)])
    assert "does not know all of the text: 1 tokens, 16.67% of the text (passage 2" in note
    assert note.endswith("so that bits/byte is too low")

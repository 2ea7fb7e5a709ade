"""Passages of texts and of shards."""

from pathlib import Path

import pytest

from taidscale.assessment.held_out_text import Cutting, read_domain
from taidscale.data.corpus.in_memory import write_shards
from taidscale.data.tokenizer import load_tokenizer
from tests.assessment.exported import save_exported, subject_of


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

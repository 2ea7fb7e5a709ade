"""What was finished is found again, and nothing else."""

from pathlib import Path

import pytest

from taidscale.assessment.journal import Journal


def test_equal_keys_find_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out" / "j.jsonl")
    journal.put({"model": "a", "task": "x"}, [1.5, "日本語\u2028"])
    again = Journal(tmp_path / "out" / "j.jsonl")
    assert again.get({"task": "x", "model": "a"}) == [1.5, "日本語\u2028"]
    assert again.get({"task": "x", "model": "b"}) is None


def test_a_line_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.put({"n": 1}, "one")
    journal.put({"n": 2}, "two")
    path.write_bytes(path.read_bytes()[:-5])
    again = Journal(path)
    assert (again.get({"n": 1}), again.get({"n": 2})) == ("one", None)
    again.put({"n": 2}, "two")
    assert Journal(path).get({"n": 2}) == "two"


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text('{"text": "no journal"}\n')
    with pytest.raises(ValueError, match=r"j\.jsonl, line 1: not an entry"):
        Journal(path)

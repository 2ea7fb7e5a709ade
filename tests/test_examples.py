"""Launchers and example configurations are copied out whole, and nothing is written over."""

from pathlib import Path

import pytest

from taidscale.examples import EXAMPLES, copy_examples


def test_a_second_copy_writes_nothing(tmp_path: Path) -> None:
    written = copy_examples(tmp_path / "new")
    assert {path.parent.name for path in written} == {"launchers", "configs"}
    for path in written:
        example = EXAMPLES / path.relative_to(tmp_path / "new")
        assert path.read_bytes() == example.read_bytes()
        assert path.stat().st_mode == example.stat().st_mode
    assert copy_examples(tmp_path / "new") == []
    written[0].unlink()
    assert copy_examples(tmp_path / "new") == [written[0]]


def test_a_file_of_the_users_stays_and_nothing_is_written_beside_it(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    mine = tmp_path / "configs" / "quickstart.yaml"
    mine.write_text("seed: 7\n")
    with pytest.raises(ValueError, match=r"quickstart\.yaml is there already, and different"):
        copy_examples(tmp_path)
    assert mine.read_text() == "seed: 7\n"
    assert not (tmp_path / "launchers").exists()

"""What has its name is whole; nothing else in the project gives something written its name."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from taidscale.durable import folder_written_aside, replace_file, written_aside

ROOT = Path(__file__).parents[1]
RENAMES = {"rename", "renames", "move"}
"""Of os, of a path, of shutil. `replace` besides, where it takes one argument, or is that of os."""


def test_only_one_module_renames() -> None:
    sources = [*ROOT.glob("taidscale/**/*.py"), *ROOT.glob("tools/*.py")]
    assert len(sources) > 200
    found = {path.relative_to(ROOT).as_posix() for path in sources if any(_renames(path))}
    assert found == {"taidscale/durable.py"}


def _renames(path: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        of_a_module = isinstance(node.func.value, ast.Name) and node.func.value.id in {
            "os",
            "shutil",
        }
        replaces = node.func.attr == "replace" and len(node.args) == (2 if of_a_module else 1)
        if node.func.attr in RENAMES or (replaces and not node.keywords):
            yield node.lineno


def write_half(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("half")
    raise OSError("full")


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_a_file_that_fails_leaves_what_was_there(tmp_path: Path, shared: bool, flush: bool) -> None:
    path = tmp_path / "settings.json"
    replace_file(path, "語\n", shared=shared, flush=flush)
    assert path.read_bytes() == "語\n".encode()
    with pytest.raises(OSError, match="full"), written_aside(path, shared=shared, flush=flush) as p:
        write_half(p)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["語\n"]


def test_several_writers_have_names_of_their_own(tmp_path: Path) -> None:
    """Both are whole, whoever comes last; one of them alone would find its file gone."""
    path = tmp_path / "status.json"
    with written_aside(path, shared=True) as first:
        first.write_text("first")
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            replace_file(path, "second", shared=True)
            os.write(writer, b".")
            os._exit(0)
        assert os.read(reader, 1) == b"."
        os.waitpid(child, 0)
        assert path.read_text() == "second"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["first"]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "of a killed process").touch()
    with pytest.raises(OSError, match="full"), folder_written_aside(out) as aside:
        write_half(aside / "deep" / "file")
    assert list(tmp_path.iterdir()) == []
    out.mkdir()  # empty: may be used
    with folder_written_aside(out) as aside:
        (aside / "deep").mkdir(parents=True)
        (aside / "deep" / "a").write_text("a")
        assert not any(out.iterdir())
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "out",
        "out/deep",
        "out/deep/a",
    ]
    with pytest.raises(OSError, match="not empty"), folder_written_aside(out) as aside:
        aside.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

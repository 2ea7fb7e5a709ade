"""Starting the tools as a user does, and what they must say."""

import os
import re
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"
WITHOUT_TORCH = Path(__file__).parents[1] / "without_torch"


def start(
    tool: str, *arguments: str, folder: Path, without_torch: bool = False
) -> "subprocess.Popen[str]":
    """A tool in another working directory, which finds the package by itself, in a process group of
    its own.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if without_torch:
        environment["PYTHONPATH"] = str(WITHOUT_TORCH)
    return subprocess.Popen(
        [sys.executable, str(TOOLS / tool), *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def expect_success(tool: "subprocess.Popen[str]") -> str:
    out, errors = tool.communicate(timeout=600)
    assert tool.returncode == 0, errors
    return out


def expect_error(tool: "subprocess.Popen[str]", says: str) -> None:
    out, errors = tool.communicate(timeout=600)
    assert tool.returncode == 2, errors
    assert "Traceback" not in errors
    assert out == ""
    # A progress bar may stand before it, and libraries may warn.
    lines = [line for line in re.split(r"[\r\n]+", errors) if line.startswith("error: ")]
    assert len(lines) == 1, errors
    assert errors.rstrip("\n").endswith(lines[0]), errors
    assert re.search(says, lines[0]), lines[0]

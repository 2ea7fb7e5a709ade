"""The container has the versions of constraints.txt and no others."""

import re
import subprocess
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]


def instructions() -> list[str]:
    """Of the Dockerfile, each in one line."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line[:1] != "#"]
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def test_every_version_comes_from_the_constraints() -> None:
    text = "\n".join(instructions())
    commands = [command for line in instructions() for command in re.split(r"&&|RUN", line)]
    installs = [command for command in commands if "pip install" in command]
    assert len(installs) == text.count("pip install") == 2
    assert all(re.search(r"--constraint constraints\.txt|--no-deps", line) for line in installs)
    assert re.search(r"COPY constraints\.txt pyproject\.toml", text)
    assert not re.search(r"[=~<>]=\s*\d", text)


def test_its_python_is_one_that_the_project_takes() -> None:
    (version,) = re.findall(r"^FROM python:(\d+\.\d+)-", "\n".join(instructions()), re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(version)


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        ["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout

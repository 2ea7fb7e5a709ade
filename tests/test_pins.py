"""Every dependency has one version in constraints.txt, within the bounds of pyproject.toml."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def dependencies() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    wanted = [Requirement(line) for line in [*project["dependencies"], *extras]]
    return [requirement for requirement in wanted if requirement.name != project["name"]]


def pins() -> list[tuple[str, str]]:
    """(canonical name, version) of each line; fails on a line of any other form."""
    found = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if text := line.partition("#")[0].strip():
            requirement = Requirement(text)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", text
            assert "*" not in specifier.version, text
            found.append((canonicalize_name(requirement.name), specifier.version))
    return found


@pytest.mark.parametrize("requirement", dependencies(), ids=lambda requirement: requirement.name)
def test_pinned_within_bounds(requirement: Requirement) -> None:
    versions = [version for name, version in pins() if name == canonicalize_name(requirement.name)]
    assert len(versions) == 1, f"{requirement.name}: {len(versions)} lines in constraints.txt"
    assert requirement.specifier.contains(versions[0], prereleases=True)


def test_no_version_is_pinned_twice() -> None:
    names = [name for name, _ in pins()]
    assert names
    assert len(names) == len(set(names))

"""Every dependency has one version in each set of pins, within the bounds of pyproject.toml."""

import tomllib
from importlib.metadata import version
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


FIRST = "constraints.txt"
SETS = {
    FIRST: [FIRST],
    "transformers 5": [FIRST, "constraints-transformers5.txt"],
    "gpu": [FIRST, "constraints-gpu.txt"],
}
"""Later files replace what earlier ones say."""


def lines_of(file: str) -> list[tuple[str, str]]:
    """(canonical name, version) of each line; fails on a line of any other form."""
    found = []
    for line in (ROOT / file).read_text().splitlines():
        if text := line.partition("#")[0].strip():
            requirement = Requirement(text)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", text
            assert "*" not in specifier.version, text
            found.append((canonicalize_name(requirement.name), specifier.version))
    return found


def pins(name: str) -> dict[str, str]:
    return {package: version for file in SETS[name] for package, version in lines_of(file)}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("requirement", dependencies(), ids=lambda requirement: requirement.name)
def test_pinned_within_bounds(requirement: Requirement, name: str) -> None:
    version = pins(name)[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize("file", sorted({file for files in SETS.values() for file in files}))
def test_no_version_is_pinned_twice(file: str) -> None:
    names = [name for name, _ in lines_of(file)]
    assert names
    assert len(names) == len(set(names))


@pytest.mark.parametrize("file", ["constraints-transformers5.txt", "constraints-gpu.txt"])
def test_other_sets_say_only_what_differs(file: str) -> None:
    assert not set(lines_of(file)) & set(lines_of(FIRST))


def test_what_is_installed_is_what_is_pinned() -> None:
    """Of the set that the tests run with: what stands in front must not hide behind the first."""
    five = version("transformers").startswith("5.")
    name = "transformers 5" if five else "gpu" if version("torch").startswith("2.11.") else FIRST
    wanted = {canonicalize_name(requirement.name) for requirement in dependencies()}
    assert {each: version(each) for each in wanted} == {each: pins(name)[each] for each in wanted}

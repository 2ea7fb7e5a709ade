"""What one version of transformers wrote, another computes the same with, and the other way round.

The other version's Python is named by OTHER_PYTHON, which the Makefile sets where it is installed:
`make test TRANSFORMERS=5` installs it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from taidscale.models.families import STUDENTS
from tests.models.other_version import compute, write
from tests.small_families import SMALL_MODELS, SmallModel

OTHER = os.environ.get("OTHER_PYTHON")
if OTHER is not None and not Path(OTHER).exists():
    OTHER = None
EXACT = 1e-5
"""Relative error of float32 sums in another order."""
Logits = dict[str, torch.Tensor]

pytestmark = pytest.mark.skipif(
    not OTHER, reason="only one version of transformers is here: make environment TRANSFORMERS=5"
)


def in_other(*args: str | Path) -> None:
    subprocess.run([str(OTHER), "-m", "tests.models.other_version", *map(str, args)], check=True)


@pytest.fixture(scope="module")
def written_there(tmp_path_factory: pytest.TempPathFactory) -> tuple[Logits, Logits]:
    """What the other version computed before it wrote, and what this one does afterwards."""
    folder = tmp_path_factory.mktemp("there")
    in_other("write", folder)
    return torch.load(folder / "logits.pt"), compute(folder)


@pytest.fixture(scope="module")
def written_here(tmp_path_factory: pytest.TempPathFactory) -> tuple[Logits, Logits]:
    """The other way round."""
    folder = tmp_path_factory.mktemp("here")
    write(folder)
    in_other("compute", folder, folder / "found.pt")
    return torch.load(folder / "logits.pt"), torch.load(folder / "found.pt")


def version_of(python: str) -> str:
    code = "from importlib.metadata import version; print(version('transformers'))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout


def test_they_are_two_versions() -> None:
    assert {version_of(str(OTHER))[:2], version_of(sys.executable)[:2]} == {"4.", "5."}


@pytest.mark.parametrize("direction", ["written_here", "written_there"])
@pytest.mark.parametrize("small", SMALL_MODELS, ids=lambda small: small.name)
def test_both_compute_the_same(
    small: SmallModel, direction: str, request: pytest.FixtureRequest
) -> None:
    before, after = request.getfixturevalue(direction)
    kinds = ["saved", *(["exported", "transformers"] if small.family in STUDENTS else [])]
    for kind in kinds:
        found, expected = after[f"{small.slug} {kind}"], before[small.slug]
        assert (found - expected).norm() < EXACT * expected.norm(), kind

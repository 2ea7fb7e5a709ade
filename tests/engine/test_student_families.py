"""Every family that can learn: steps of the real engine, and an export that is the same model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from taidscale.checkpoint.export import export_hugging_face
from taidscale.engine.student import student_state_dict
from taidscale.models.families import STUDENTS, read_model_config
from taidscale.models.save import save_config
from tests.engine.test_training_parity import Setting, compare
from tests.ranks import run_on_ranks
from tests.small_families import SMALL_MODELS, SmallModel, save_small
from tests.tiny_models import save_byte_tokenizer

LEARNERS = [small for small in SMALL_MODELS if small.family in STUDENTS]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Students of all families after five steps on four ranks, compared with dense ones."""
    folder = tmp_path_factory.mktemp("students")
    for small in LEARNERS:
        save_small(folder / f"teacher-{small.slug}", small, std=0.1)
        save_small(folder / f"student-{small.slug}-True", small, seed=7, std=0.1)
    run_on_ranks(4, __name__, "train_all", {"folder": folder})
    return folder


def train_all(folder: Path) -> None:
    """On each rank."""
    for small in LEARNERS:
        compare(Setting(family=small.slug), folder, folder / f"step-{small.slug}")


def test_all_are_here() -> None:
    assert {small.family for small in LEARNERS} == set(STUDENTS)


@pytest.mark.parametrize("small", LEARNERS, ids=lambda small: small.slug)
def test_exports_what_was_trained(small: SmallModel, trained: Path, tmp_path: Path) -> None:
    start = trained / f"student-{small.slug}-True"
    save_config(read_model_config(start, "student"), tmp_path / "student")
    save_byte_tokenizer(tmp_path / "student")
    report = export_hugging_face(
        student_state_dict(trained / f"step-{small.slug}"),
        tmp_path / "student",
        tmp_path / "out",
        dtype=torch.float32,
        model_card="# A card\n",
        files={},
    )
    assert report.largest_difference == 0.0
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before, after = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits
            for folder in (start, tmp_path / "out")
        )
    assert (before - after).abs().max() > 1e-2

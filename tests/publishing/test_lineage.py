"""A card names all that a student learnt from, over its runs, and no teacher that it had not."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from taidscale.commands.work.export import export
from tests.ranks import run_on_ranks
from tests.runs import make_run

STEPS = {"total_steps": 4, "checkpoint": {"every_steps": 2, "keep_last": 9}, "global_batch_size": 2}
ALONE = {"objective": "cross_entropy"}


def run_stage(
    folder: Path, first_weights: Path | None, teacher: str | None, loss: dict[str, Any]
) -> Path:
    """Train and export; the exported folder, which has the name of the stage's."""
    config = make_run(folder, **STEPS, loss=loss)
    settings = yaml.safe_load(config.read_text())
    if first_weights is not None:
        settings["student"]["init"]["model"] = str(first_weights)
    if teacher is None:
        settings["teacher"] = None
    else:
        (folder / "teacher").rename(folder / teacher)
        settings["teacher"]["model"] = str(folder / teacher)
    config.write_text(yaml.safe_dump(settings))
    return train_and_export(config, folder / folder.name)


def train_and_export(config: Path, out: Path, *overrides: str, step: int | None = None) -> Path:
    arguments = [str(config), *overrides]
    run_on_ranks(1, "tests.runs", "train_quietly", {"arguments": arguments})
    return export_step(config.parent / "run", out, step)


def export_step(run_dir: Path, out: Path, step: int | None) -> Path:
    export(
        argparse.Namespace(run_dir=run_dir, out=out, step=step, dtype=None, max_shard_size="5GB")
    )
    return out


def read_card(folder: Path) -> tuple[dict[str, Any], str]:
    """Metadata, and the text in one line."""
    _, metadata, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(metadata), " ".join(body.split())


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_stage(tmp_path_factory.mktemp("runs") / "one", None, "big-a", {"objective": "taid"})


@pytest.fixture(scope="module")
def second(first: Path) -> Path:
    loss = {"objective": "forward_kl"}
    return run_stage(first.parents[1] / "two", first, "big-b", loss)


def test_a_run_without_a_teacher_claims_none(tmp_path: Path) -> None:
    metadata, text = read_card(run_stage(tmp_path / "alone", None, None, ALONE))
    assert "distillation" not in metadata["tags"]
    assert metadata["base_model"] == ["student"]
    assert "trained without a teacher" in text
    assert "to predict the data above, without a teacher" in text
    assert "its teacher" not in text
    assert "near" not in text


def test_a_teacher_that_only_judges_teaches_nothing(tmp_path: Path) -> None:
    metadata, text = read_card(run_stage(tmp_path / "judged", None, "big-a", ALONE))
    assert "distillation" not in metadata["tags"]
    assert metadata["base_model"] == ["student"]
    assert "distilled from" not in text
    assert "its teacher" not in text


def test_one_run(first: Path) -> None:
    metadata, text = read_card(first)
    assert metadata["base_model"] == ["student", "big-a"]
    assert {"distillation", "taid"} <= set(metadata["tags"])
    assert "distilled from big-a" in text
    assert "the probabilities that its teacher gives it" in text
    assert "## Runs" not in text
    (stage,) = json.loads((first / "lineage.json").read_text())["stages"]
    assert stage["first_weights"] == "student"
    assert str(first.parents[1]) not in (first / "lineage.json").read_text()


def test_two_runs(second: Path) -> None:
    metadata, text = read_card(second)
    assert metadata["base_model"] == ["one", "big-b", "student", "big-a"]
    assert {"distillation", "taid", "forward_kl"} <= set(metadata["tags"])
    assert "distilled from big-b" in text
    assert "Before that, it was distilled from big-a" in text
    assert "| 1 | student | 1 to 4 | taid | big-a |" in text
    assert "| 2 | one | 1 to 4 | forward_kl | big-b |" in text


def test_three_runs_the_last_one_alone(second: Path) -> None:
    third = run_stage(second.parents[1] / "three", second, None, ALONE)
    metadata, text = read_card(third)
    assert metadata["base_model"] == ["two", "student", "big-a", "big-b"]
    assert {"distillation", "cross_entropy", "taid", "forward_kl"} <= set(metadata["tags"])
    assert "trained without a teacher over" in text
    assert "Before that, it was distilled from big-a" in text
    assert "; distilled from big-b" in text
    assert "| 3 | two | 1 to 4 | cross_entropy | none |" in text
    assert "In an earlier run the student was trained to give" in text
    stages = json.loads((third / "lineage.json").read_text())["stages"]
    assert [stage["first_weights"] for stage in stages] == ["student", "one", "two"]


def test_a_teacher_and_an_objective_that_changed_on_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    run_stage(folder, None, "big-a", {"objective": "taid"})
    shutil.copytree(folder / "big-a", folder / "big-b")
    now = [f"teacher.model={folder / 'big-b'}", "loss={objective: forward_kl}", "total_steps=6"]
    metadata, text = read_card(train_and_export(folder / "run.yaml", tmp_path / "later", *now))
    assert metadata["base_model"] == ["student", "big-a", "big-b"]
    assert "distilled from big-a and then big-b" in text
    assert "| teacher from step 1 on | big-a |" in text
    assert "| teacher from step 5 on | big-b |" in text
    assert "| 1 | student | 1 to 4 | taid | big-a |" in text
    assert "| 1 | | 5 to 6 | forward_kl | big-b |" in text
    # A checkpoint from before the change knows nothing of it, whatever the settings are now.
    metadata, text = read_card(export_step(folder / "run", tmp_path / "earlier", 2))
    assert metadata["base_model"] == ["student", "big-a"]
    assert "| objective | taid |" in text
    assert "big-b" not in text


def test_a_damaged_lineage_is_named(first: Path, tmp_path: Path) -> None:
    shutil.copytree(first.parent / "run", tmp_path / "run")
    path = tmp_path / "run" / "student" / "lineage.json"
    path.write_text('{"format": 1, "stages": [{"first_weights": "a\\n# b"}]}')
    with pytest.raises(ValueError, match=r"lineage\.json does not say .*stages\.0\.first_weights"):
        export_step(tmp_path / "run", tmp_path / "out", None)
    path.unlink()
    export_step(tmp_path / "run", tmp_path / "out", None)

"""A run goes on with the models that it began with, or says what became of them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import make_run, read_lines

ROOT = Path(__file__).parents[1]


def train(config: Path, *overrides: str, status: int = 0, **environment: str) -> str:
    """The command, on one rank; what it said."""
    command = [sys.executable, "-m", "taidscale.train", str(config), *overrides]
    bare = {name: value for name, value in os.environ.items() if "RANK" not in name}
    done = subprocess.run(
        command,
        env=bare | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Where a run of four steps was made, and a copy of all of it that no test changes."""
    folder = tmp_path_factory.mktemp("trained")
    train(make_run(folder / "here", evaluation=None), "total_steps=4")
    shutil.copytree(folder / "here", folder / "kept")
    return folder / "here", folder / "kept"


@pytest.fixture
def run(trained: tuple[Path, Path]) -> Path:
    """The run as it was."""
    here, kept = trained
    shutil.rmtree(here)
    shutil.copytree(kept, here)
    return here


def test_unchanged_models_are_accepted(run: Path) -> None:
    said = train(run / "run.yaml", "total_steps=5")
    assert "finished after step 5" in said


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_changed_architecture_is_refused(run: Path, role: str) -> None:
    file = run / role / "config.json"
    entries = json.loads(file.read_text())
    file.write_text(json.dumps({**entries, "rms_norm_eps": 1e-3}))
    said = train(run / "run.yaml", "total_steps=5", status=2)
    assert re.search(rf"{role} {run / role}: config.json. Put them back", said), said
    record = run / "run" / "models.json"
    assert f"delete {record}" in said
    assert len(read_lines(run / "run" / "metrics.jsonl")) == 4
    record.unlink()
    assert "finished after step 5" in train(run / "run.yaml", "total_steps=5")
    assert record.is_file()


def test_other_weights_are_refused(run: Path) -> None:
    file = sorted((run / "teacher").glob("*.safetensors"))[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    said = train(run / "run.yaml", "total_steps=5", status=2)
    assert f"teacher {run / 'teacher'}: {file.name}. Put" in said


def test_another_teacher_by_name_is_a_change_like_others(run: Path) -> None:
    shutil.copytree(run / "teacher", run / "other-teacher")
    train(run / "run.yaml", "total_steps=5", f"teacher.model={run / 'other-teacher'}")
    lines = [json.loads(line) for line in (run / "run" / "events.jsonl").open()]
    assert any(
        line["event"] == "changed" and line["message"].startswith("teacher.model was ")
        for line in lines
    )


def test_a_damaged_record_is_named(run: Path) -> None:
    (run / "run" / "models.json").write_text('{"teacher": {"name": ')
    said = train(run / "run.yaml", "total_steps=5", status=2)
    assert re.search(r"error: .*models\.json cannot be read .*delete it", said), said


def test_a_branch_of_the_hub_that_moves(run: Path, tmp_path: Path) -> None:
    commits = ["a" * 40, "b" * 40]
    repo = tmp_path / "hub" / "models--some--teacher"
    for commit in commits:
        shutil.copytree(run / "teacher", repo / "snapshots" / commit)
    moved = repo / "snapshots" / commits[1] / "config.json"
    moved.write_text(json.dumps({**json.loads(moved.read_text()), "rms_norm_eps": 1e-1}))
    (repo / "refs").mkdir()
    offline = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    overrides = [f"run_dir={tmp_path / 'run'}", "teacher.model=some/teacher"]
    for branch, steps in ((0, 3), (1, 5)):
        (repo / "refs" / "main").write_text(commits[branch])
        train(run / "run.yaml", *overrides, f"total_steps={steps}", **offline)
    record = json.loads((tmp_path / "run" / "models.json").read_text())["teacher"]
    assert (record["revision"], record["commit"]) == (None, commits[0])
    assert f"revision: {commits[0]}" in (tmp_path / "run" / "config.yaml").read_text()
    assert not moved.samefile(repo / "snapshots" / commits[0] / "config.json")
    # Where the user asks for another one, it is taken, and said.
    overrides += ["total_steps=6", "teacher.revision=" + commits[1]]
    said = train(run / "run.yaml", *overrides, **offline)
    assert f"teacher.revision was '{commits[0]}' and is '{commits[1]}' now" in said

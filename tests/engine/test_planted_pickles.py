"""A checkpoint of a stranger runs nothing, wherever it is read."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from taidscale.checkpoint.manifest import MANIFEST, read_facts, read_hash, write_manifest
from taidscale.commands.train import main
from taidscale.engine.student import student_state_dict
from tests.ranks import run_on_ranks
from tests.runs import make_run

ROOT = Path(__file__).parents[2]


class Planted:
    """Makes a file where it is read."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.proof}",)


@pytest.fixture(scope="module", params=[0, 2, 3], ids="stage {}".format)
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    config = make_run(folder, evaluation=None, zero={"stage": request.param})
    params = {"arguments": [str(config), "total_steps=2"]}
    run_on_ranks(1, "tests.runs", "train_quietly", params)
    return folder


def plant(trained: Path, run: Path, kind: str) -> None:
    """A copy of the run with code in a file of its checkpoint, and hashes to match."""
    shutil.copytree(trained / "run", run)
    checkpoint = run / "checkpoints" / "step-00000002"
    (file,) = checkpoint.glob(f"*{kind}*.pt")
    state = torch.load(file, weights_only=False)
    state["planted"] = Planted(run / "proof")
    torch.save(state, file)
    facts = read_facts(checkpoint)
    facts["files"][file.name] |= dict(zip(("bytes", "sha256"), read_hash(file), strict=True))
    (checkpoint / MANIFEST).unlink()
    files = facts.pop("files")
    write_manifest(checkpoint, facts, files)


def resume(config: str, run: str, overrides: list[str]) -> None:
    """On the one rank: the start is refused and runs nothing that was planted."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        assert main([config, f"run_dir={run}", "total_steps=3", *overrides]) == 2
    assert "Nothing of it was run; use a checkpoint that you trust" in said.getvalue()
    assert not (Path(run) / "proof").exists()


@pytest.mark.parametrize("kind", ["model_states", "optim_states", "random_state"])
def test_planted_code_is_not_run(trained: Path, tmp_path: Path, kind: str) -> None:
    facts = read_facts(trained / "run" / "checkpoints" / "step-00000002")
    stage = facts["layout"]["stage"]
    if (stage, kind) == (0, "optim_states"):
        kind = "model_states"  # which holds them
    run = tmp_path / "run"
    plant(trained, run, kind)
    for overrides in ([], ["zero.stage=1"]):  # and another layout
        params = {"config": str(trained / "run.yaml"), "run": str(run), "overrides": overrides}
        run_on_ranks(1, __name__, resume.__name__, params)
    checkpoint, proof = run / "checkpoints" / "step-00000002", run / "proof"
    if kind != "random_state" and (stage != 2 or kind == "optim_states"):
        with pytest.raises(ValueError, match="Nothing of it was run"):
            student_state_dict(checkpoint)  # as the export reads it
    else:  # which has no need of the file
        with contextlib.suppress(ValueError):
            student_state_dict(checkpoint)
    assert not proof.exists()
    # The fault itself: without care the file does run it.
    (file,) = checkpoint.glob(f"*{kind}*.pt")
    torch.load(file, weights_only=False)
    assert proof.exists()


def test_planted_weights_under_evaluation(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "student", tmp_path / "model")
    for file in (tmp_path / "model").glob("*.safetensors*"):
        file.unlink()
    proof = tmp_path / "proof"
    torch.save({"lm_head.weight": Planted(proof)}, tmp_path / "model" / "pytorch_model.bin")
    (tmp_path / "text.txt").write_text("Some words, and some more of them.\n" * 40)
    evaluate = [ROOT / "tools" / "evaluate.py", tmp_path / "model", "--out", tmp_path / "report"]
    bare = {name: value for name, value in os.environ.items() if "RANK" not in name}
    done = subprocess.run(
        [sys.executable, *map(str, [*evaluate, "--text", f"words={tmp_path / 'text.txt'}"])],
        env=bare | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode not in (0, None), done.stdout
    assert not proof.exists()
    assert "usage" not in done.stderr, done.stderr

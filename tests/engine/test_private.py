"""A DeepSpeed that has renamed something is refused by name, also under `python -O`."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import deepspeed
import pytest

from taidscale.engine.private import WRITTEN_FOR, PrivateNameError, private, replace_private
from tests.tiny_models import save_tiny_model

ROOT = Path(__file__).parents[2]


def test_renamed_names_under_o(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model", "llama", vocab_size=97)
    command = [sys.executable, "-O", "-m", "tests.engine.private_names", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "rror: " in line or line == "nothing"]
    versions = f"DeepSpeed {deepspeed.__version__} is installed, and TAIDScale was written for "
    expected = [
        "deepspeed.ops.__compatible_ops__ is a tuple",
        "DeepSpeedEngine has no _copy_recovery_script",
        "DeepSpeedZeroOptimizer_Stage3 has no clip_grad",
        "Parameter has no ds_persist",
        "would not be loaded: they are not trained",
        "inv_freq became torch.bfloat16",
        "the optimizer's states are not where they were",
        "DeepSpeedZeroOptimizer.averaged_gradients is a list",
    ]
    assert len(said) == len(expected), done.stdout
    for line, words in zip(said, expected, strict=True):
        assert words in line
        assert ("not trained" in line) != (f"{versions}{WRITTEN_FOR}: " in line)


def test_a_new_name_is_not_invented() -> None:
    owner = SimpleNamespace(old=1)
    replace_private(owner, "old", 2)
    assert private(owner, "old", int) == 2
    with pytest.raises(PrivateNameError, match=r"SimpleNamespace has no new, .* Install deepspeed"):
        replace_private(owner, "new", 2)
    assert vars(owner) == {"old": 2}


def test_only_types_are_asserted() -> None:
    """`python -O` drops the rest: an assertion may say what cannot be None, and nothing more."""
    for path in sorted(ROOT.glob("taidscale/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                said = ast.unparse(node.test)
                assert said.endswith("is not None") or said.startswith("isinstance("), (path, said)

"""What is compared is what the folder holds."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from taidscale.assessment.subjects import load_model
from tests.assessment.exported import ON_CPU, save_exported, subject_of
from tests.models.float8_files import save_both


def test_answers_end_where_the_folder_says(tmp_path: Path) -> None:
    """Chat models end a turn with another token than a document."""
    folder = save_exported(tmp_path, seed=0)
    settings = {"eos_token_id": [256, 3], "pad_token_id": 4}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    loaded = load_model(subject_of("after", folder), ON_CPU).generation_config
    assert {name: getattr(loaded, name) for name in settings} == settings


def test_eight_bit_model_is_that_of_its_scales(tmp_path: Path) -> None:
    folder = save_exported(tmp_path / "model", seed=0)
    small, by_hand = save_both(folder, "block")
    for other in (small, by_hand):
        for path in folder.glob("*token*"):
            shutil.copy(path, other)
    found, right = (load_model(subject_of("teacher", f), ON_CPU) for f in (small, by_hand))
    ids = torch.arange(30)[None]
    assert torch.equal(found(ids).logits, right(ids).logits)


def test_tensor_that_would_not_be_used(tmp_path: Path) -> None:
    folder = save_exported(tmp_path, seed=0)
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = {**load_file(path), "model.norm.bias": torch.ones(16)}
    save_file(tensors, path, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    entries = json.loads(index.read_text())
    entries["weight_map"]["model.norm.bias"] = path.name
    index.write_text(json.dumps(entries))
    wanted = rf"^after: {re.escape(str(folder))}: the weights hold model\.norm\.bias"
    with pytest.raises(ValueError, match=wanted):
        subject_of("after", folder)

"""Both spellings of RoPE give the same model, and what they cannot both mean is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from taidscale.models.families import FAMILIES, read_model_config
from taidscale.models.load import model_from_files
from taidscale.models.rope import plain_rope
from taidscale.models.save import save_config
from taidscale.models.weights import find_weights
from tests.models.rope_spellings import KINDS, LONGEST, older_entries, respell
from tests.tiny_models import save_tiny_model

IDS = torch.arange(LONGEST + 16)[None] % 50
"""More than the positions that the models were made for, where dynamic and longrope change."""


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def read_whole(folder: Path) -> torch.Tensor:
    config = read_model_config(folder, "model")
    weights = find_weights(folder, "model")
    return logits(model_from_files(config, weights, torch.float32, "eager"))


ONLY = {
    "deepseek_v3": [kind for kind in KINDS if kind != "longrope"],
    "nemotron": ["default"],
    "olmo": ["default", "linear", "dynamic"],
    "olmo2": ["default", "linear", "dynamic"],
    "phi3": ["default", "longrope"],
}
"""Kinds that a family's configuration takes, where it does not take all."""
CASES = [(family, kind) for family in FAMILIES for kind in ONLY.get(family, KINDS)]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_both_spellings_are_one_model(family: str, kind: str, tmp_path: Path) -> None:
    save_tiny_model(tmp_path, family, vocab_size=50, **older_entries(kind, family))
    reference = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    expected = logits(reference)
    torch.testing.assert_close(read_whole(tmp_path), expected, rtol=0, atol=1e-5)
    respell(tmp_path, kind, family)
    torch.testing.assert_close(read_whole(tmp_path), expected, rtol=0, atol=1e-5)

    config = read_model_config(tmp_path, "model")
    save_config(config, tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "rope_parameters" not in saved
    wanted = {"rope_scaling": None, **older_entries(kind, family)}
    if kind == "longrope" and family != "phi3":  # the ratio of both lengths, for all versions
        wanted["rope_scaling"] = {**wanted["rope_scaling"], "factor": LONGEST / 16}
    assert {"rope_scaling": None, **saved}.items() >= wanted.items()


NEWER = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}
LONG = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "rope_theta is 1000000.0 in"),
        ({"rope_scaling": None, "rope_parameters": NEWER}, "rope_scaling differ in factor"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 3.0}, "rope_parameters": NEWER},
            "factor is 2.0 in rope_parameters and 3.0 in rope_scaling",
        ),
        (
            {"rope_parameters": {"full_attention": NEWER, "sliding_attention": NEWER}},
            "each kind of layer its own RoPE (full_attention, sliding_attention)",
        ),
        ({"rope_parameters": {**NEWER, "partial_rotary_factor": 0.5}}, "partial_rotary_factor is"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor is 0.25"),
        ({"rope_parameters": {**NEWER, "mrope_section": [2, 2]}}, "does not use mrope_section"),
        ({"rope_scaling": {"type": "default", "mrope_section": [2, 2]}}, "does not use mrope"),
        ({"rope_scaling": {"type": "two", "factor": 2.0}}, "rope_type 'two' is not one of default"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_type None is not one of"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "RoPE of type yarn lacks factor"),
        (
            {"rope_scaling": {"type": "yarn", "rope_type": "linear", "factor": 2.0}},
            "and type 'yarn",
        ),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
        ({"rope_theta": "1e6"}, "rope_theta is '1e6'; it must be a number above 0"),
        ({"rope_scaling": LONG}, "lacks original_max_position_embeddings or factor"),
        (
            {
                "rope_scaling": {**LONG, "factor": 8.0},
                "original_max_position_embeddings": 16,
                "max_position_embeddings": 64,
            },
            "over original_max_position_embeddings is 4,",
        ),
        (
            {
                "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
                "original_max_position_embeddings": 16,
                "max_position_embeddings": 64,
            },
            "does not use original_max_position_embeddings (16)",
        ),
    ],
    ids=str,
)
def test_what_is_refused(entries: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        plain_rope(entries)


@pytest.mark.parametrize(
    ("entries", "plain"),
    [
        ({"hidden_size": 3}, {"hidden_size": 3}),
        ({"rope_scaling": None}, {"rope_scaling": None}),
        ({"rope_theta": 5}, {"rope_theta": 5, "rope_scaling": None}),
        (
            {"rope_parameters": NEWER, "rope_theta": 1e6},
            {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ),
        (
            {"rope_parameters": {"rope_theta": 3.0, "partial_rotary_factor": 1.0}},
            {"rope_theta": 3.0, "rope_scaling": None},
        ),
    ],
    ids=str,
)
def test_what_is_translated(entries: dict[str, Any], plain: dict[str, Any]) -> None:
    assert plain_rope(entries) == plain
    assert plain_rope(plain) == plain

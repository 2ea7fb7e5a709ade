"""`student.init.overrides`: what transformers makes of a config.json with entries replaced."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from taidscale.models.installed import TRANSFORMERS
from taidscale.models.rope import plain_rope
from taidscale.models.student import student_config
from tests.models.test_student import fresh

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "vocab_size": 20,
    "max_position_embeddings": 64,
}
LLAMA = {"model_type": "llama", **SIZES}
GROUPED = {**LLAMA, "num_key_value_heads": 2}
EXPLICIT = {**GROUPED, "head_dim": 8}
SLIDING = {
    **GROUPED,
    "model_type": "qwen2",
    "use_sliding_window": True,
    "sliding_window": 8,
    "max_window_layers": 2,
}
QWEN25 = {**SLIDING, "use_sliding_window": False}
GEMMA2 = {**GROUPED, "model_type": "gemma2", "head_dim": 8}
SCALED = {**GROUPED, "rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}


def write(folder: Path, entries: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(entries))
    return folder


def entries_of(config: PretrainedConfig) -> dict[str, Any]:
    found = config.to_dict()
    return {**found, "_name_or_path": "", "rope_scaling": found.get("rope_scaling")}


def logits(config: PretrainedConfig) -> torch.Tensor:
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    with torch.no_grad():
        found: torch.Tensor = (
            AutoModelForCausalLM.from_config(config).eval()(torch.arange(20)[None]).logits
        )
    return found


@pytest.mark.parametrize(
    ("entries", "overrides"),
    [
        (LLAMA, {"hidden_size": 32}),
        (LLAMA, {"num_attention_heads": 4}),
        (LLAMA, {"num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}),
        (GROUPED, {"num_attention_heads": 4}),
        (GROUPED, {"num_key_value_heads": 8}),
        (GROUPED, {"num_key_value_heads": None}),
        (EXPLICIT, {"head_dim": 16}),
        (EXPLICIT, {"head_dim": None, "hidden_size": 32}),
        (SLIDING, {"use_sliding_window": False}),
        (SLIDING, {"max_window_layers": 1}),
        (SLIDING, {"num_hidden_layers": 3, "sliding_window": 4}),
        (QWEN25, {"use_sliding_window": True}),
        (QWEN25, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}),
        (GEMMA2, {"num_hidden_layers": 3}),
        (GEMMA2, {"layer_types": ["full_attention"] * 4}),
        (GEMMA2, {"final_logit_softcapping": None, "query_pre_attn_scalar": 144}),
        (SCALED, {"rope_theta": 1e4}),
        (SCALED, {"rope_scaling": None}),
        (SCALED, {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}),
        (LLAMA, {"rms_norm_eps": 1e-5, "tie_word_embeddings": True, "vocab_size": 30}),
        ({**GROUPED, "model_type": "mistral"}, {"sliding_window": 4, "hidden_size": 32}),
        ({**GROUPED, "model_type": "mistral"}, {"sliding_window": None}),
    ],
    ids=str,
)
def test_equals_the_file_with_these_entries(
    entries: dict[str, Any], overrides: dict[str, Any], tmp_path: Path
) -> None:
    """Also where transformers wrote the file, with entries that it derived."""
    replaced = {**entries, **overrides}
    if replaced.get("head_dim", 1) is None:
        del replaced["head_dim"]
    reference = AutoConfig.from_pretrained(write(tmp_path / "right", replaced))
    if entries["model_type"] == "mistral":
        reference.head_dim = reference.hidden_size // reference.num_attention_heads
    found = student_config(fresh(write(tmp_path / "file", entries), overrides))
    assert entries_of(found) == entries_of(reference)
    assert torch.equal(logits(found), logits(reference))


@pytest.mark.parametrize(
    ("entries", "overrides"),
    [
        (SLIDING, {"use_sliding_window": False}),
        (SLIDING, {"max_window_layers": 1}),
        (SLIDING, {"num_hidden_layers": 3}),
        (GEMMA2, {"num_hidden_layers": 5}),
        (QWEN25, {"use_sliding_window": True, "sliding_window": 4}),
        (QWEN25, {"num_hidden_layers": 2}),
    ],
    ids=str,
)
def test_layer_types_that_transformers_wrote_follow(
    entries: dict[str, Any], overrides: dict[str, Any], tmp_path: Path
) -> None:
    AutoConfig.from_pretrained(write(tmp_path / "file", entries)).save_pretrained(tmp_path / "4")
    assert "layer_types" in json.loads((tmp_path / "4" / "config.json").read_text())
    reference = AutoConfig.from_pretrained(write(tmp_path / "right", {**entries, **overrides}))
    found = student_config(fresh(tmp_path / "4", overrides))
    assert found.layer_types == reference.layer_types
    assert found.sliding_window == reference.sliding_window


def test_rope_parameters_replace_all_of_rope(tmp_path: Path) -> None:
    overrides = {"rope_parameters": {"rope_type": "default", "rope_theta": 3e4}}
    found = student_config(fresh(write(tmp_path, SCALED), overrides))
    assert plain_rope(found.to_dict()).items() >= {"rope_theta": 3e4, "rope_scaling": None}.items()


@pytest.mark.parametrize(
    ("entries", "overrides", "says"),
    [
        (LLAMA, {"torch_dtype": "float32"}, "torch_dtype cannot be set here; the run's setting"),
        (LLAMA, {"dtype": "bfloat16"}, "dtype cannot be set here; the run's setting `precision`"),
        (LLAMA, {"model_type": "qwen2"}, "model_type cannot be changed to 'qwen2'"),
        (LLAMA, {"hiden_size": 3, "layers": 3}, "hiden_size, layers is not an entry"),
        (LLAMA, {"rope_interleaved": True}, "rope_interleaved is not an entry"),
        (LLAMA, {"num_attention_heads": 7}, "hidden_size (64) does not divide by num_attention"),
        (GROUPED, {"num_attention_heads": 1}, "(1) does not divide by num_key_value_heads (2)"),
        (LLAMA, {"num_key_value_heads": 3}, "(8) does not divide by num_key_value_heads (3)"),
        (LLAMA, {"hidden_size": "32"}, "hidden_size is '32'; it must be a whole number above 0"),
        (LLAMA, {"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        (LLAMA, {"rms_norm_eps": "1e-5"}, "YAML takes 1e-5 for text, write 1.0e-5"),
        (QWEN25, {"sliding_window": 4}, "sliding_window: 4 has no effect beside the other"),
        (QWEN25, {"max_window_layers": 1}, "max_window_layers has no effect; set use_sliding"),
        (
            {**QWEN25, "sliding_window": None},
            {"use_sliding_window": True},
            "use_sliding_window has no effect; set sliding_window too",
        ),
        (
            {**GEMMA2, "layer_types": ["full_attention"] * 4},
            {"num_hidden_layers": 3},
            "num_hidden_layers: config.json lists layer_types of its own; override them too",
        ),
        (LLAMA, {"quantization_config": {"quant_method": "fp8"}}, "quantization_config is not an"),
        (LLAMA, {"rope_parameters": {"rope_type": "nope"}}, "rope_type 'nope' is not one of"),
        (SCALED, {"rope_theta": 0}, "rope_theta is 0; it must be a number above 0"),
    ],
    ids=str,
)
def test_what_is_refused(
    entries: dict[str, Any], overrides: dict[str, Any], says: str, tmp_path: Path
) -> None:
    if TRANSFORMERS >= 5 and overrides == {"num_attention_heads": 7}:  # which sees it first
        says = "The hidden size (64) is not a multiple of the number of attention"
    wanted = rf"^student\.init\.overrides: .*{re.escape(says)}"
    with pytest.raises(ValueError, match=wanted):
        student_config(fresh(write(tmp_path, entries), overrides))


def test_head_dim_of_the_file_stays_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "taidscale"):
        found = student_config(fresh(write(tmp_path, EXPLICIT), {"hidden_size": 32}))
    assert found.head_dim == 8
    assert "head_dim stays 8, as config.json says" in caplog.text
    caplog.clear()
    student_config(fresh(tmp_path, {"num_hidden_layers": 2}))
    assert not caplog.messages

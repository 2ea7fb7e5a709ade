"""What cannot teach is refused before any weights are loaded, by name and with the way out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from taidscale.models.families import model_config, read_model_config
from taidscale.models.load import check_weights, empty_model
from taidscale.models.part_names import trunk_of
from taidscale.models.weights import find_weights
from taidscale.teachers.divide import divide
from taidscale.teachers.shares import Share
from tests.runs import make_run
from tests.test_bad_input import refuse
from tests.tiny_models import save_tiny_model


def refused(entries: dict[str, Any]) -> str:
    with pytest.raises(ValueError, match=r"^teacher\.model: ") as caught:
        model_config(entries, "teacher.model", "config.json")
    return str(caught.value)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"model_type": "gpt_oss"}, "'gpt_oss' is not supported (its attention has sinks"),
        ({"model_type": "qwen3_next"}, "gated delta rules"),
        ({"model_type": "bert"}, "'bert' is not supported; these are: llama,"),
        (
            {"model_type": "newest", "transformers_version": "9.1.0"},
            "does not know it, config.json was written by 9.1.0)",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_family_that_is_not_covered(entries: dict[str, Any], says: str) -> None:
    said = refused(entries)
    assert says in said
    assert "train on that with loss.objective: cross_entropy" in said


def test_a_family_that_only_teaches(tmp_path: Path) -> None:
    make_run(tmp_path)
    save_tiny_model(tmp_path / "student", "qwen3_moe", vocab_size=260)
    says = (
        r"student\.init\.model: 'qwen3_moe' can be a teacher, but not a student; these can: llama"
    )
    refuse(tmp_path, says=says)


def test_an_expert_that_the_files_lack(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, "qwen3_moe", vocab_size=50)
    lost = "model.layers.1.mlp.experts.2.down_proj.weight"
    for path in tmp_path.glob("*.safetensors"):
        tensors = load_file(path)
        if tensors.pop(lost, None) is not None:
            save_file(tensors, path, metadata={"format": "pt"})
    index = tmp_path / "model.safetensors.index.json"
    entries = json.loads(index.read_text())
    del entries["weight_map"][lost]
    index.write_text(json.dumps(entries))
    config, weights = (
        read_model_config(tmp_path, "teacher.model"),
        find_weights(tmp_path, "teacher.model"),
    )
    with pytest.raises(ValueError, match=rf"^teacher.model: .* the weights lack {lost}"):
        check_weights(config, weights, "teacher.model")


def test_a_parameter_that_no_plan_covers(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, "llama", vocab_size=50)
    config = read_model_config(tmp_path, "teacher.model")
    trunk = trunk_of(empty_model(config, torch.float32, "sdpa"))
    trunk.layers[1].mlp.extra_proj = nn.Linear(4, 4, device="meta")
    with pytest.raises(ValueError, match=r"how to divide layers\.1\.mlp\.extra_proj of llama is"):
        divide(trunk, config, Share(0, 1, 4, 4), None)


@pytest.mark.parametrize("method", ["gptq", "awq", "mxfp4", "bitsandbytes"])
def test_quantised_files(method: str) -> None:
    said = refused({"model_type": "qwen3_moe", "quantization_config": {"quant_method": method}})
    assert f"quant_method {method!r}" in said
    assert "bfloat16 weights" in said


@pytest.mark.parametrize(
    ("family", "entry", "says"),
    [
        ("deepseek_v3", {"scoring_func": "softmax"}, "transformers computes 'sigmoid' alone"),
        ("deepseek_v3", {"topk_method": "greedy"}, "transformers computes 'noaux_tc' alone"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "transformers computes None alone"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "computes False alone"),
        ("qwen2_moe", {"use_sliding_window": True}, "computes False alone"),
        ("nemotron", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "do not read it"),
        ("gpt_neox", {"head_dim": 8}, "that of gpt_neox is hidden_size over num_attention_heads"),
        ("llama", {"partial_rotary_factor": 0.5}, "llama rotates whole heads"),
        ("starcoder2", {"norm_type": "rms_norm"}, "computes 'layer_norm' alone"),
        ("starcoder2", {"layer_norm_epsilon": 1e-3}, "does not know layer_norm_epsilon"),
        ("phi3", {"auto_map": {"AutoModelForCausalLM": "modeling_mine.Phi3"}}, "code of its own"),
    ],
    ids=str,
)
def test_what_transformers_would_ignore(family: str, entry: dict[str, Any], says: str) -> None:
    assert says in refused({"model_type": family, **entry})


@pytest.mark.parametrize(
    ("family", "settings", "says"),
    [
        (
            "phi3",
            {
                "original_max_position_embeddings": 8,
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": [1.0, 1.0],
                    "long_factor": [2.0, 2.0],
                },
            },
            r"within_document, and the teacher's RoPE \(longrope\) changes beyond 8 positions",
        ),
    ],
)
def test_documents_that_depend_on_their_neighbours(
    family: str, settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    make_run(tmp_path)
    save_tiny_model(tmp_path / "teacher", family, vocab_size=264, **settings)
    refuse(tmp_path, "data.attention=within_document", says=says)

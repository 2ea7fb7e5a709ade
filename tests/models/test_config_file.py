"""Each entry of a config.json is honoured, known to change nothing, or refused by name."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from taidscale.models.config_file import to_config
from taidscale.models.families import read_model_config
from taidscale.models.installed import TRANSFORMERS
from tests.models.public_configs import PUBLIC

TINY = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "vocab_size": 9,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WITHOUT_EFFECT = {
    *("_attn_implementation_autoset", "auto_map", "cache_implementation", "hidden_act"),
    *("gradient_checkpointing", "is_llama_config", "max_sequence_length", "max_window_layers"),
    *("quantization_config", "rope_interleaved", "sliding_window", "sliding_window_size"),
    *("torch_dtype", "transformers.js_config", "unsloth_fixed", "unsloth_version"),
    *("use_mrope", "use_sliding_window"),
}


SAYS_5 = {
    "llama {'hidden_size': 66}": "The hidden size (66) is not a multiple of the number",
    "llama {'head_dim': 15}": "`head_dim`=15",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_models_are_read_as_transformers_reads_them(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLIC[name]))
    ours = read_model_config(tmp_path, "teacher.model").to_dict()
    theirs = AutoConfig.from_pretrained(tmp_path).to_dict()
    meant = {"_name_or_path": ""}
    if TRANSFORMERS < 5:
        meant["rope_scaling"] = theirs.get("rope_scaling")
    if name == "google/gemma-2b":  # as documented, though transformers 4.57 forgot it
        meant["hidden_act"] = "gelu_pytorch_tanh"
    if name == "mistralai/Mistral-7B-v0.1":  # null there
        meant["head_dim"] = 128
    assert ours == {**{key: theirs[key] for key in theirs if key in ours}, **meant}
    newer = {"rope_scaling", "rope_theta", "hidden_activation"} if TRANSFORMERS >= 5 else set()
    assert set(PUBLIC[name]) - ours.keys() <= WITHOUT_EFFECT | newer


def test_the_name_that_transformers_takes_from_a_gguf_file_changes_nothing(tmp_path: Path) -> None:
    plain = {"model_type": "llama", **TINY}
    for name, entries in (("plain", plain), ("named", {**plain, "_model_name_or_path": "A B"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(entries))
    expected, found = (read_model_config(tmp_path / n, "teacher.model") for n in ("plain", "named"))
    assert found.to_dict() == expected.to_dict()


@pytest.mark.parametrize(
    ("family", "entry", "says"),
    [
        ("llama", {"rope_interleaved": True}, "does not know rope_interleaved: true of llama"),
        ("qwen2", {"dual_chunk_attention_config": {"chunk_size": 4}}, "dual_chunk_attention_conf"),
        ("qwen3", {"num_experts": 8}, "num_experts: 8"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"hidden_act": "relu"}, 'hidden_act: "relu"'),
        ("gemma2", {"sliding_window_size": 7}, "sliding_window_size: 7"),
        ("llama", {"sliding_window": 128}, "sliding_window: 128"),
        ("mistral", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: ["),
        ("mistral", {"attention_bias": True}, "attention_bias: true"),
        ("qwen2", {"mlp_bias": True}, "mlp_bias: true"),
        ("llama", {"configuration_files": ["config.9.json"]}, "configuration_files"),
        ("llama", {"auto_map": {"AutoModelForCausalLM": "a.B"}}, "auto_map names code of its own"),
        ("llama", {"embedding_multiplier": 12.0, "logits_scaling": 8.0}, "logits_scaling: 8.0"),
        ("llama", {"hidden_size": 64.0}, "hidden_size is 64.0; it must be a whole number"),
        ("llama", {"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ("llama", {"vocab_size": True}, "vocab_size is True"),
        ("llama", {"rms_norm_eps": None}, "rms_norm_eps is null; delete the entry"),
        ("llama", {"hidden_size": None}, "hidden_size is null; delete the entry"),
        ("llama", {"rms_norm_eps": "1e-5"}, "write 1.0e-5"),
        ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; it must be true"),
        ("llama", {"hidden_act": "sillu"}, "hidden_act is 'sillu'"),
        ("llama", {"num_key_value_heads": 3}, "(4) does not divide by num_key_value_heads (3)"),
        ("llama", {"hidden_size": 66}, "hidden_size (66) does not divide by num_attention_heads"),
        ("qwen2", {"hidden_size": 66}, "hidden_size (66) does not divide by num_attention_heads"),
        ("llama", {"head_dim": 15}, "head_dim is 15"),
        ("qwen2", {"layer_types": ["full_attention"]}, "transformers refuses it: "),
        ("qwen2", {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "kind of layer"),
    ],
    ids=str,
)
def test_what_would_change_the_model_is_refused(
    family: str, entry: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": family, **TINY, **entry}))
    if TRANSFORMERS >= 5:  # which checks some itself, before
        says = SAYS_5.get(f"{family} {entry}", says)
    wanted = f"^teacher.model: {re.escape(str(path))}: .*{re.escape(says)}"
    with pytest.raises(ValueError, match=wanted):
        read_model_config(tmp_path, "teacher.model")


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "mxfp4", "aqlm", "quanto", None])
def test_quantised_models_are_refused_by_their_method(method: str | None) -> None:
    settings = {"quant_method": method, "bits": 4}
    with pytest.raises(ValueError, match=f"quant_method {method!r}.*bfloat16.*dequantise"):
        to_config({"model_type": "llama", **TINY, "quantization_config": settings})


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "sparsity_config": {"format": "sparse-24-bitmask"},
        },
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "transform_config": {"config_groups": {"R4": {}}},
        },
    ],
    ids=str,
)
def test_forms_of_compressed_tensors_that_are_not_floats(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"compressed-tensors has .* which is not read"):
        to_config({"model_type": "llama", **TINY, "quantization_config": settings})


@pytest.mark.parametrize(
    ("family", "entry"),
    [
        ("llama", {"layer_types": ["full_attention"] * 2}),
        ("mistral", {"layer_types": ["sliding_attention"] * 2, "sliding_window": 4}),
        ("mistral", {"layer_types": ["full_attention"] * 2, "sliding_window": None}),
        ("llama", {"use_bidirectional_attention": False, "num_experts": None, "hidden_pdrop": 0.0}),
        ("llama", {"partial_rotary_factor": 1.0}),
        ("qwen2", {"head_dim": None}),
    ],
    ids=str,
)
def test_what_changes_nothing_is_taken(family: str, entry: dict[str, Any]) -> None:
    config = to_config({"model_type": family, **TINY, **entry})
    plain = to_config(
        {"model_type": family, **TINY, **{k: v for k, v in entry.items() if k == "sliding_window"}}
    )
    assert {**config.to_dict(), "rope_scaling": None} == {**plain.to_dict(), "rope_scaling": None}


def test_mistral_without_head_dim_has_the_derived_one() -> None:
    """Scaled RoPE in transformers 4.57 fails on its null."""
    assert to_config({"model_type": "mistral", **TINY}).head_dim == 16

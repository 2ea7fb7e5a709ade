"""A small model of each family, with the odd fields that published ones have."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from taidscale.models.installed import without_initialisation
from tests.tiny_models import WITHOUT

VOCABULARY, ROWS = 99, 101
_SIZES = {
    "vocab_size": ROWS,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_MLA = {
    "num_key_value_heads": 6,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 10,
}
_GROUPED_EXPERTS = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.7,
    "first_k_dense_replace": 1,
}
_MANY_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40}
_LONG = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2],
    "long_factor": [2.0, 2.5, 3.0],
}

_ALL_PAIRS = {"short_factor": [1.0, 1.1, 1.2, 1.4], "long_factor": [2.0, 2.5, 3.0, 4.0]}


@dataclass(frozen=True)
class SmallModel:
    """A row of the table of families."""

    family: str
    settings: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    """What sets it apart from other rows of its family."""
    packs: bool = True
    """Whether a document's RoPE does not depend on what else is in the batch."""

    @property
    def name(self) -> str:
        return f"{self.family}{f' {self.kind}' if self.kind else ''}"

    @property
    def slug(self) -> str:
        return self.name.replace(" ", "_").replace(",", "")


SMALL_MODELS = [
    SmallModel("llama", {"tie_word_embeddings": False}),
    SmallModel("llama", {"attention_bias": True, "mlp_bias": True}, "biased"),
    SmallModel("llama", {"num_key_value_heads": 1, "num_attention_heads": 4}, "one kv head"),
    SmallModel("qwen2", {"tie_word_embeddings": True}),
    SmallModel("qwen3", {"tie_word_embeddings": False}),
    SmallModel("mistral", {"sliding_window": 4}),
    SmallModel("gemma", {"num_key_value_heads": 1, "hidden_activation": "gelu_pytorch_tanh"}),
    SmallModel("gemma2", {"sliding_window": 4, "query_pre_attn_scalar": 12}),
    SmallModel(
        "gemma3_text",
        {
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_theta": 1e6,
            "rope_local_base_freq": 100.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "query_pre_attn_scalar": 12,
        },
    ),
    SmallModel("smollm3", {"no_rope_layers": [1, 0, 1], "no_rope_layer_interval": 2}),
    SmallModel("olmo", {"clip_qkv": 1.5}),
    SmallModel("olmo2", {"tie_word_embeddings": False}),
    SmallModel("olmo2", {"num_key_value_heads": 2, "num_attention_heads": 8}, "few kv heads"),
    SmallModel(
        "olmo3",
        {
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    SmallModel(
        "granite",
        {
            "embedding_multiplier": 3.0,
            "logits_scaling": 4.0,
            "residual_multiplier": 0.3,
            "attention_multiplier": 0.2,
        },
    ),
    SmallModel("ministral", {"sliding_window": 4}),
    SmallModel("seed_oss", {"attention_bias": True, "attention_out_bias": False}),
    SmallModel("cohere", {"logit_scale": 0.3}),
    SmallModel("cohere", {"logit_scale": 0.3, "use_qk_norm": True}, "qk norm"),
    SmallModel("cohere2", {"logit_scale": 0.3, "sliding_window": 4}),
    SmallModel("exaone4", {"sliding_window": 4, "sliding_window_pattern": 2}),
    SmallModel("starcoder2", {"sliding_window": 4, "norm_epsilon": 1e-3}),
    SmallModel("ernie4_5", {"use_bias": True}),
    SmallModel("nemotron", {"partial_rotary_factor": 0.5, "norm_eps": 1e-3}),
    SmallModel("phi", {"partial_rotary_factor": 0.5}),
    SmallModel("phi", {"partial_rotary_factor": 0.5, "qk_layernorm": True}, "qk norm"),
    SmallModel("phi3", {"sliding_window": 4}),
    SmallModel(
        "phi3",
        {
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 16,
            "rope_scaling": _LONG,
        },
        "longrope",
        packs=False,
    ),
    SmallModel(
        "phi3",
        {"original_max_position_embeddings": 32, "rope_scaling": {**_LONG, **_ALL_PAIRS}},
        "longrope, short",
    ),
    SmallModel(
        "gpt_neox", {"rotary_pct": 0.75, "rotary_emb_base": 500, "use_parallel_residual": True}
    ),
    SmallModel("gpt_neox", {"rotary_pct": 0.5, "use_parallel_residual": False}, "sequential"),
    SmallModel("stablelm", {"use_qkv_bias": True, "partial_rotary_factor": 0.25}),
    SmallModel(
        "stablelm",
        {"use_parallel_residual": True, "qk_layernorm": True, "partial_rotary_factor": 0.5},
        "parallel",
    ),
    SmallModel("glm", {"partial_rotary_factor": 0.5, "attention_bias": True}),
    SmallModel("glm4", {"partial_rotary_factor": 0.5, "attention_bias": True}),
    SmallModel("arcee", {"attention_bias": True}),
    SmallModel("helium"),
    SmallModel(
        "qwen3_moe",
        {**_MANY_EXPERTS, "norm_topk_prob": True, "mlp_only_layers": [1]},
    ),
    SmallModel(
        "qwen3_moe",
        {**_MANY_EXPERTS, "norm_topk_prob": False, "decoder_sparse_step": 2},
        "sparse step",
    ),
    SmallModel(
        "qwen2_moe",
        {**_MANY_EXPERTS, "shared_expert_intermediate_size": 56, "norm_topk_prob": False},
    ),
    SmallModel("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    SmallModel("glm4_moe", {**_GROUPED_EXPERTS, "use_qk_norm": True, "norm_topk_prob": True}),
    SmallModel("deepseek_v3", {**_MLA, **_GROUPED_EXPERTS, "norm_topk_prob": True}),
    SmallModel(
        "deepseek_v3",
        {**_MLA, **_GROUPED_EXPERTS, "q_lora_rank": None, "norm_topk_prob": False},
        "whole q",
    ),
]
"""At least one for each family, and for each way in which a family's models differ."""


def config_of(small: SmallModel) -> Any:
    """Its configuration."""
    sizes = dict(_SIZES)
    for name in WITHOUT.get(small.family, ()):
        del sizes[name]
    if small.family == "phi3":
        sizes["pad_token_id"] = 0
    return AutoConfig.for_model(small.family, **{**sizes, **small.settings})


def save_small(folder: Path, small: SmallModel, seed: int = 3, std: float = 0.2) -> Any:
    """Write the model with random weights everywhere, norms and biases too, and return it."""
    with without_initialisation():  # of StableLM's norms it fails
        model = AutoModelForCausalLM.from_config(config_of(small)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.normal_(std=std if tensor.ndim > 1 else 0.3, generator=generator)
            if name.endswith("e_score_correction_bias"):
                tensor.add_(1.0 - tensor.min())  # below 0, versions of transformers differ
            if "norm" in name and name.endswith("weight"):
                tensor.add_(1.0)
    model.tie_weights()
    model.save_pretrained(folder, max_shard_size="60KB")
    return model

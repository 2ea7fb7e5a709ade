"""Small configurations of every family, with odd sizes and all the variants that change a shape."""

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 6,
    "num_local_experts": 6,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
    "n_group": 1,
    "topk_group": 1,
}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 6,
    "q_lora_rank": 14,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
}
_FREE_HEADS = {"head_dim": 8}
_BIASED = {"attention_bias": True}
_MLP_BIASED = {"mlp_bias": True}
_SLIDING = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 3}

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {**_FREE_HEADS, **_BIASED, **_MLP_BIASED}),
    ("qwen2", {}),
    ("qwen2", _SLIDING),
    ("qwen3", _FREE_HEADS),
    ("qwen3", {**_FREE_HEADS, **_BIASED, **_SLIDING}),
    ("mistral", {"sliding_window": 9}),
    ("mistral", {**_FREE_HEADS, "sliding_window": None}),
    ("ministral", {**_FREE_HEADS, "sliding_window": 5}),
    ("gemma", _FREE_HEADS),
    ("gemma2", {**_FREE_HEADS, "sliding_window": 8}),
    ("gemma2", {**_FREE_HEADS, **_BIASED}),
    ("gemma3_text", {**_FREE_HEADS, "sliding_window": 8}),
    ("smollm3", {}),
    ("smollm3", {**_SLIDING, **_BIASED, **_MLP_BIASED}),
    ("olmo", {}),
    ("olmo", _BIASED),
    ("olmo2", {}),
    ("olmo2", _BIASED),
    ("olmo3", {"sliding_window": 6}),
    ("granite", {}),
    ("granite", {**_BIASED, **_MLP_BIASED}),
    ("seed_oss", _FREE_HEADS),
    ("seed_oss", {**_FREE_HEADS, **_MLP_BIASED, "attention_out_bias": True}),
    ("seed_oss", {**_FREE_HEADS, "attention_bias": False}),
    ("cohere", {}),
    ("cohere", {"use_qk_norm": True, **_BIASED}),
    ("cohere2", {"sliding_window": 4}),
    ("exaone4", {"sliding_window": 4}),
    ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 5}),
    ("starcoder2", {}),
    ("starcoder2", {"use_bias": False, "sliding_window": 10}),
    ("ernie4_5", _FREE_HEADS),
    ("ernie4_5", {"use_bias": True}),
    ("nemotron", {}),
    ("nemotron", {**_FREE_HEADS, **_BIASED, **_MLP_BIASED}),
    ("arcee", {}),
    ("arcee", {**_BIASED, **_MLP_BIASED}),
    ("phi", {}),
    ("phi", {"qk_layernorm": True}),
    ("phi3", {}),
    ("phi3", {"sliding_window": 11}),
    ("gpt_neox", {}),
    ("gpt_neox", {"attention_bias": False, "use_parallel_residual": False}),
    ("stablelm", {}),
    ("stablelm", {"use_qkv_bias": True, "qk_layernorm": True}),
    ("stablelm", {"use_parallel_residual": True}),
    ("glm", _FREE_HEADS),
    ("glm", {"attention_bias": False}),
    ("glm4", _FREE_HEADS),
    ("helium", {"head_dim": 4}),
    ("helium", {"head_dim": 4, **_BIASED, **_MLP_BIASED}),
    ("qwen3_moe", {**EXPERTS, **_FREE_HEADS}),
    ("qwen3_moe", {**EXPERTS, **_BIASED, "mlp_only_layers": [1], "decoder_sparse_step": 2}),
    ("qwen3_moe", {**EXPERTS, "num_experts": 0}),
    ("qwen2_moe", EXPERTS),
    ("qwen2_moe", {**EXPERTS, "qkv_bias": False, "mlp_only_layers": [0, 3]}),
    ("mixtral", {**EXPERTS, **_FREE_HEADS, "sliding_window": 6}),
    ("glm4_moe", {**EXPERTS, **_FREE_HEADS}),
    ("glm4_moe", {**EXPERTS, **_BIASED, "use_qk_norm": True, "first_k_dense_replace": 2}),
    ("deepseek_v3", {**EXPERTS, **LATENT}),
    ("deepseek_v3", {**EXPERTS, **LATENT, "q_lora_rank": None, "first_k_dense_replace": 0}),
    ("deepseek_v3", {**EXPERTS, **LATENT, **_BIASED, "n_shared_experts": 2}),
]
"""Families with settings; those without any are what transformers makes of the sizes."""


def settings_of(family: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Entries of a configuration."""
    heads = {"num_attention_heads": 4} if family == "qwen2_moe" else {}  # which must divide 24
    return {**SIZES, **heads, **settings}


def variant_name(variant: tuple[str, dict[str, Any]]) -> str:
    """For a test's name."""
    family, settings = variant
    return "-".join([family, *(name for name in settings if name not in EXPERTS | LATENT)])

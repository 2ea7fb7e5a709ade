"""A rank's share of teachers with experts, latent keys or packed projections, by hand."""

from dataclasses import replace
from typing import Any

from transformers import AutoConfig

from taidscale.models.shape import model_shape
from taidscale.planning.teacher import moments, shard
from taidscale.planning.workload import Workload
from tests.planning.test_plan import tinyswallow

SIZES: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": False,
    "pad_token_id": None,
}
SPARSE: dict[str, Any] = {"num_experts_per_tok": 4, "moe_intermediate_size": 512}
ENDS = 151_936 * 1024 + 151_936 // 8 * 1024 + 1024
"""The embedding, this rank's rows of the head, the last norm."""
ATTENTION = 2 * 2048 * 1024 + 2 * 1024 * 1024
"""Queries and sums, keys and values."""


def with_teacher(family: str, **settings: Any) -> Workload:
    """A run that splits it over 8 ranks, in bf16."""
    shape = model_shape(AutoConfig.for_model(family, **{**SIZES, **settings}))
    return replace(tinyswallow(), teacher=shape)


def test_every_rank_has_an_eighth_of_each_expert() -> None:
    load = with_teacher("qwen3_moe", **SPARSE, num_experts=32, mlp_only_layers=[1])
    experts = 32 * 3 * 1024 * 512
    whole = 2 * 1024 + 2 * 128  # norms of hidden states, queries and keys
    sparse = (ATTENTION + experts) // 8 + whole + 32 * 1024  # the router
    dense = (ATTENTION + 3 * 1024 * 4096) // 8 + whole
    assert shard(load) == 2 * (2 * sparse + dense + ENDS)


def test_shared_experts_are_split_like_dense_ones() -> None:
    load = with_teacher(
        "glm4_moe", **SPARSE, n_routed_experts=16, n_shared_experts=2, first_k_dense_replace=0
    )
    experts, shared = 16 * 3 * 1024 * 512, 3 * 1024 * 1024
    layer = (ATTENTION + experts + shared) // 8 + 2 * 1024 + 16 * 1024
    assert shard(load) == 2 * (3 * layer + ENDS)


def test_what_latent_keys_are_made_of_is_whole() -> None:
    latent = {"q_lora_rank": 384, "kv_lora_rank": 256, "qk_rope_head_dim": 64}
    latent |= {"qk_nope_head_dim": 128, "v_head_dim": 96}
    load = with_teacher("deepseek_v3", **latent, first_k_dense_replace=3, head_dim=64)
    whole = 384 * 1024 + 384 + (256 + 64) * 1024 + 256 + 2 * 1024
    heads = 16 * (128 + 64) * 384 + 16 * (128 + 96) * 256 + 1024 * 16 * 96
    layer = whole + (heads + 3 * 1024 * 4096) // 8
    assert shard(load) == 2 * (3 * layer + ENDS)


def test_packed_projections_are_split_like_their_parts() -> None:
    packed, parts = with_teacher("phi3"), with_teacher("mistral")
    assert shard(packed) == shard(parts)
    assert shard(parts) == 2 * (3 * ((ATTENTION + 3 * 1024 * 4096) // 8 + 2048) + ENDS)


def test_experts_need_room_for_each_row_of_a_token() -> None:
    load = with_teacher("qwen3_moe", **SPARSE, num_experts=32)
    tokens = 4 * 4096  # of a slice
    # Four rows: what is gated, 64 columns of 512, and in and out, of 1,024; the token before and
    # after its norm, and the sum; and beside all that the layer's input, embeddings, angles, ids.
    rows = 4 * (1024 + 64 + 1024) + 3 * 1024
    work = moments(load)[0]["teacher workspace"]
    assert work == tokens * (2 * rows + 2 * 2 * 1024 + 2 * 128 + 24)

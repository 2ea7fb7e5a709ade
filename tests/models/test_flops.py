"""Operations of a token by hand, and against what torch counts in real forwards."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from taidscale.models.flops import flops_per_token, forward_flops, keys_seen
from taidscale.models.installed import TRANSFORMERS
from taidscale.models.shape import ModelShape, model_shape
from tests.models.small_configs import EXPERTS, LATENT, settings_of

SEQ_LEN = 28
FREE_HEADS = {"head_dim": 8}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("gpt_neox", {}),
    ("phi3", {}),
    ("starcoder2", {"sliding_window": 9}),
    ("mistral", {"sliding_window": 9}),
    ("gemma2", {**FREE_HEADS, "sliding_window": 5}),
    ("gemma3_text", {**FREE_HEADS, "sliding_window": 5, "num_hidden_layers": 7}),
    ("qwen3_moe", {**EXPERTS, **FREE_HEADS, "mlp_only_layers": [2]}),
    ("qwen2_moe", EXPERTS),
    ("mixtral", {**EXPERTS, "sliding_window": 6}),
    ("glm4_moe", {**EXPERTS, "first_k_dense_replace": 2}),
    ("deepseek_v3", {**EXPERTS, **LATENT}),
    ("deepseek_v3", {**EXPERTS, **LATENT, "q_lora_rank": None, "n_shared_experts": 2}),
]


@pytest.mark.parametrize(("family", "settings"), CASES)
def test_a_forward_takes_what_is_counted(family: str, settings: dict[str, Any]) -> None:
    """To a hundredth: RoPE's angles are products too, which torch counts and we do not.

    Eager attention multiplies all pairs of queries and keys; those that its masks hide are
    taken off, as kernels leave them out.
    """
    config = AutoConfig.for_model(family, **settings_of(family, settings))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if TRANSFORMERS >= 5:  # which torch else does not count
        model.set_experts_implementation("eager")
    masks = watch_masks(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(SEQ_LEN)[None], use_cache=False)
    shape = model_shape(config)
    assert len(masks) == shape.num_layers
    hidden = sum(int((mask < 0).sum()) for mask in masks)
    of_pair = 2 * (shape.attention.query_size + shape.attention.value_size)
    counted = counter.get_total_flops() - hidden * of_pair
    assert forward_flops(shape, SEQ_LEN) * SEQ_LEN == pytest.approx(counted, rel=0.01)


def watch_masks(model: nn.Module) -> list[torch.Tensor]:
    """Filled with the mask of each layer's attention, [1, 1, S, S], 0 where a key is seen."""
    masks: list[torch.Tensor] = []

    def see(_: nn.Module, __: Any, named: dict[str, Any]) -> None:
        masks.append(named["attention_mask"])

    for name, module in model.named_modules():
        if name.endswith(("self_attn", "attention")):
            module.register_forward_pre_hook(see, with_kwargs=True)
    return masks


def small_llama(**settings: Any) -> ModelShape:
    sizes = {"vocab_size": 100, "hidden_size": 8, "intermediate_size": 16, "head_dim": 4}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = AutoConfig.for_model("llama", **sizes, tie_word_embeddings=True, **settings)
    return model_shape(config)


def test_flops_by_hand() -> None:
    small = small_llama()
    # A layer: q and o 8·8 each, k and v 8·4 each, three of 8·16: 576. Head: 800.
    assert small.matmul_parameters == 2 * 576 + 800
    # Scores and values: 8 query elements times 5.5 keys on average, twice, 2 operations each.
    assert forward_flops(small, 10) == 2 * 1952 + 2 * (8 * 5.5 * 2 * 2)
    assert flops_per_token(small, None, 10) == 3 * 4256
    assert flops_per_token(small, small, 10) == 4 * 4256


def test_norms_and_lookups_cost_nothing() -> None:
    # Two norms a layer and the last one.
    small = small_llama()
    assert small.num_parameters == small.matmul_parameters + 5 * 8
    untied = replace(small, tied=False)
    assert untied.num_parameters == small.num_parameters + 800
    assert forward_flops(untied, 10) == forward_flops(small, 10)


@pytest.mark.parametrize(
    ("seq_len", "window"), [(1, None), (10, None), (10, 1), (10, 4), (10, 10), (10, 99)]
)
def test_keys_are_those_of_a_mask(seq_len: int, window: int | None) -> None:
    places = range(seq_len)
    seen = sum(0 <= q - k < (window or seq_len) for q in places for k in places)
    assert keys_seen(seq_len, window) == pytest.approx(seen / seq_len)

"""Sizes out of a `config.json` are those of the model that transformers builds from it."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from taidscale.models.flops import flops_per_token, forward_flops
from taidscale.models.shape import ModelShape, model_shape

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": None,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("qwen3", {"attention_bias": True}),
        ("mistral", {}),
        ("gemma", {}),
        ("gemma2", {}),
    ],
)
def test_every_tensor_is_counted(family: str, settings: dict[str, Any], tied: bool) -> None:
    config = AutoConfig.for_model(family, **SIZES, tie_word_embeddings=tied, **settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = model_shape(config)
    layer = sorted(tuple(p.shape) for p in model.model.layers[1].parameters())
    assert sorted(shape.layer_tensors().values()) == layer
    assert shape.num_parameters == model.num_parameters()
    assert shape.whole_scores == (family == "gemma2")


SMALL = ModelShape("llama", 100, 8, 16, 2, 2, 1, 4, tied=True)


def test_flops_by_hand() -> None:
    # A layer: q and o 8·8 each, k and v 8·4 each, three of 8·16: 576. Head: 800.
    assert SMALL.matmul_parameters == 2 * 576 + 800
    # Scores and values: 8 query elements times 5 keys on average, twice, 2 operations each.
    assert forward_flops(SMALL, 10) == 2 * 1952 + 2 * (8 * 5 * 2 * 2)
    assert flops_per_token(SMALL, None, 10) == 3 * 4224
    assert flops_per_token(SMALL, SMALL, 10) == 4 * 4224


def test_norms_and_lookups_cost_nothing() -> None:
    # Two norms a layer and the last one.
    assert SMALL.num_parameters == SMALL.matmul_parameters + 5 * 8

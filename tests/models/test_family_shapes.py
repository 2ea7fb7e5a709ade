"""Each tensor of each layer of every family, as transformers builds it."""

from collections import Counter
from typing import Any

import pytest
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from taidscale.models.families import FAMILIES
from taidscale.models.installed import without_initialisation
from taidscale.models.layer_parts import LayerShape
from taidscale.models.layer_styles import LAYER_STYLES
from taidscale.models.shape import model_shape
from taidscale.models.stored_names import stored_names
from tests.models.small_configs import VARIANTS, settings_of, variant_name

Shapes = frozenset[tuple[str, tuple[int, ...]]]


def make_config(family: str, settings: dict[str, Any]) -> PretrainedConfig:
    return AutoConfig.for_model(family, **settings_of(family, settings))


def build(config: PretrainedConfig) -> nn.Module:
    with init_empty_weights(), without_initialisation():
        model: nn.Module = AutoModelForCausalLM.from_config(config)
    model.tie_weights()  # type: ignore[operator]  # which each parameter's move to meta undid
    return model


def named(layer: LayerShape) -> Shapes:
    """One name for each tensor, numbers of experts and heads put in."""
    return frozenset(
        (p.name.replace("*", str(number)), p.shape)
        for p in layer.parameters
        for number in range(p.copies)
    )


def stored(layer: nn.Module, family: str) -> Shapes:
    """As files have them: transformers 5 packs the experts of a layer."""
    beginning = "model.layers.0."
    return frozenset(
        (name.removeprefix(beginning), shape)
        for own, parameter in layer.named_parameters()
        for name, shape in stored_names(beginning + own, tuple(parameter.shape), family).items()
    )


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("variant", VARIANTS, ids=variant_name)
def test_each_tensor_has_its_name_and_shape(
    variant: tuple[str, dict[str, Any]], tied: bool
) -> None:
    config = make_config(*variant)
    config.tie_word_embeddings = tied
    model, shape = build(config), model_shape(config)
    layers = getattr(model, "gpt_neox" if config.model_type == "gpt_neox" else "model").layers
    built = Counter(stored(layer, config.model_type) for layer in layers)
    counted: Counter[Shapes] = Counter()
    for layer, number in shape.layers:
        counted[named(layer)] += number
    assert counted == built
    outside = [tuple(p.shape) for name, p in model.named_parameters() if ".layers." not in name]
    matrices = [(shape.vocab_size, shape.hidden_size)] * (1 if tied else 2)
    assert sorted([*matrices, *(p.shape for p in shape.ends)]) == sorted(outside)
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())
    assert shape.num_layers == len(layers)


def test_every_supported_family_is_tried() -> None:
    tried = {family for family, _ in VARIANTS}
    assert set(FAMILIES) <= tried == set(LAYER_STYLES)


def test_other_families_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'gpt_oss': the sizes of its layers are not known.*llama"
    ):
        model_shape(AutoConfig.for_model("gpt_oss"))


def test_a_token_meets_its_experts_and_all_the_rest() -> None:
    config = make_config("qwen2_moe", {"num_experts": 8, "num_experts_per_tok": 3})
    config.moe_intermediate_size = 12
    shape = model_shape(config)
    idle = 5 * 5 * (3 * 24 * 12)  # of 5 layers, 5 experts each
    assert shape.active_parameters == shape.num_parameters - idle
    dense = model_shape(make_config("llama", {}))
    assert dense.active_parameters == dense.num_parameters
    assert shape.is_sparse
    assert not dense.is_sparse

"""A model with the weights of a folder, each tensor of both accounted for."""

from collections.abc import Callable

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from taidscale.models.weights import WeightFiles

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
MAX_NAMED = 4
_COMPARED_ROWS = 8192


def empty_model(
    architecture: PretrainedConfig, dtype: torch.dtype, attention: str
) -> PreTrainedModel:
    """Parameters on the meta device, buffers (RoPE frequencies) real."""
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            architecture, dtype=dtype, attn_implementation=attention
        )
    return model


def model_from_files(
    architecture: PretrainedConfig,
    weights: WeightFiles,
    dtype: torch.dtype,
    attention: str,
    source_of: Callable[[str], str] = str,
) -> PreTrainedModel:
    """The whole model on the CPU, its weights read one by one.

    Args:
        architecture: of the model.
        weights: where they are; see `check_weights`.
        dtype: to convert each to. RoPE frequencies stay float32.
        attention: implementation of transformers.
        source_of: name in the files of a parameter, by its own name.

    Raises:
        ValueError: if weights are missing, of another shape, or damaged.
    """
    model = empty_model(architecture, dtype, attention)
    for owner, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            full_name = source_of(f"{owner}.{name}")
            if full_name == HEAD and architecture.tie_word_embeddings:
                continue
            tensor = weights.read(full_name)
            if tensor.shape != parameter.shape:
                raise ValueError(_misfit(weights, full_name, parameter.shape))
            # A copy, in memory of our own: what was read may be a view of the mapped file.
            setattr(module, name, nn.Parameter(tensor.to(dtype, copy=True)))
    model.tie_weights()
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if left:
        raise ValueError(f"{weights.folder}: no weights were loaded for {left}")
    return model


def check_weights(architecture: PretrainedConfig, weights: WeightFiles, setting: str) -> None:
    """Compare the tensors of the files with those of the model, from their headers.

    Of weights, only a head that is tied and stored all the same is read, and its embedding.

    Raises:
        ValueError: if one is missing or has another shape, or if the files hold one that the
            model would not use.
    """
    model = empty_model(architecture, torch.float32, "eager")
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = dict(weights.shapes)
    if architecture.tie_word_embeddings:
        wanted.pop(HEAD, None)
        if HEAD in found:
            _check_tied(weights, setting)
            del found[HEAD]
    if missing := sorted(wanted.keys() - found.keys()):
        raise ValueError(
            f"{setting}: {weights.folder}: the weights lack {_listed(missing)}, which config.json "
            "implies"
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ValueError(f"{setting}: {_misfit(weights, name, shape)}")
    if extra := sorted(found.keys() - wanted.keys()):
        raise ValueError(
            f"{setting}: {weights.folder}: the weights hold {_listed(extra)}, which the "
            f"{architecture.model_type} of config.json does not have and would not use; correct "
            "config.json, or take them out of the files"
        )


def _check_tied(weights: WeightFiles, setting: str) -> None:
    """A head that is stored beside the embedding which it is said to be must be equal to it."""
    rows = weights.shapes[HEAD][0]
    equal = weights.shapes[HEAD] == weights.shapes.get(EMBEDDING)
    for start in range(0, rows if equal else 0, _COMPARED_ROWS):
        part = slice(start, min(start + _COMPARED_ROWS, rows))
        equal = equal and torch.equal(weights.read(HEAD, part), weights.read(EMBEDDING, part))
    if not equal:
        raise ValueError(
            f"{setting}: {weights.folder}: config.json says tie_word_embeddings: true, but the "
            f"weights hold a {HEAD} that differs from {EMBEDDING}; set tie_word_embeddings: false "
            f"in config.json, or take {HEAD} out of the files"
        )


def _misfit(weights: WeightFiles, name: str, wanted: tuple[int, ...]) -> str:
    return (
        f"{weights.folder}: {name} is {weights.shapes[name]}, config.json implies {tuple(wanted)}"
    )


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")

"""A model with the weights of a folder, each tensor of both accounted for."""

import re
from collections.abc import Callable

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from taidscale.models.installed import without_initialisation
from taidscale.models.part_names import PartNames, part_names
from taidscale.models.reads import Read
from taidscale.models.stored_names import stored_names
from taidscale.models.weights import WeightFiles, Weights

MAX_NAMED = 4
_COMPARED_ROWS = 8192


def empty_model(
    architecture: PretrainedConfig, dtype: torch.dtype, attention: str
) -> PreTrainedModel:
    """Parameters on the meta device, buffers (RoPE frequencies) real."""
    with without_initialisation(), init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            architecture, dtype=dtype, attn_implementation=attention
        )
    return model


def fill(
    model: nn.Module,
    weights: Weights,
    reads: Callable[[str, torch.Tensor], list[Read]],
    device: torch.device,
    replacement: Callable[[str, nn.Module], nn.Module | None] = lambda *_: None,
) -> None:
    """Read all parameters, and those buffers that files hold, and put them where they belong.

    Parameters keep the type that they have on the meta device, buffers become float32.

    Args:
        model: whose parameters are on the meta device, and stay without gradient if they are.
        weights: where they are.
        reads: what a parameter is made of, by its name and itself; nothing if it is left out.
        device: where they go.
        replacement: what takes the place of a module, by its name, as soon as it has its weights.

    Raises:
        ValueError: if weights are missing, of another shape, or damaged.
    """
    stored = model.state_dict(keep_vars=True).keys()
    for owner, module in list(model.named_modules()):
        beginning = f"{owner}." if owner else ""
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parts := reads(beginning + name, parameter):
                tensor = _assembled(weights, parts, parameter, parameter.dtype, device)
                filled = nn.Parameter(tensor, requires_grad=parameter.requires_grad)
                setattr(module, name, filled)
        for name, buffer in list(module.named_buffers(recurse=False)):
            if beginning + name in stored:
                parts = reads(beginning + name, buffer)
                tensor = _assembled(weights, parts, buffer, torch.float32, device)
                setattr(module, name, tensor)
        if owner and (other := replacement(owner, module)) is not None:
            model.set_submodule(owner, other)
    weights.close()


def _assembled(
    weights: Weights,
    parts: list[Read],
    wanted: torch.Tensor,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """A tensor of the wanted shape, in memory of its own: what is read may be a mapped file."""
    tensor = torch.empty(wanted.shape, dtype=dtype, device=device)
    rows = tensor.flatten(0, -2) if len(parts) > 1 and tensor.ndim > 1 else tensor
    start = 0
    for part in parts:
        found = weights.read(part.name, part.part, part.dim)
        target = rows if len(parts) == 1 else rows[start : start + len(found)]
        if found.shape != target.shape:
            raise ValueError(_misfit(weights, part.name, tuple(wanted.shape)))
        target.copy_(found)
        start += len(target) if len(parts) > 1 else 0
    if len(parts) > 1 and start != len(rows):
        raise ValueError(_misfit(weights, parts[0].name, tuple(wanted.shape)))
    return tensor


def model_from_files(
    architecture: PretrainedConfig,
    weights: Weights,
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
    tied = part_names(architecture.model_type).head_weight

    def reads(name: str, wanted: torch.Tensor) -> list[Read]:
        family = architecture.model_type
        found = stored_names(source_of(name), tuple(wanted.shape), family)
        skipped = architecture.tie_word_embeddings and tied in found
        return [] if skipped else [Read(each) for each in found]

    fill(model, weights, reads, torch.device("cpu"))
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
    wanted: dict[str, tuple[int, ...]] = {}
    for name, tensor in model.state_dict().items():
        wanted |= stored_names(name, tuple(tensor.shape), architecture.model_type)
    found, names = dict(weights.shapes), part_names(architecture.model_type)
    if architecture.tie_word_embeddings:
        wanted.pop(names.head_weight, None)
        if names.head_weight in found:
            _check_tied(weights, names, setting)
            del found[names.head_weight]
    if missing := sorted(wanted.keys() - found.keys()):
        raise ValueError(
            f"{setting}: {weights.folder}: the weights lack {_listed(missing)}, which config.json "
            "implies"
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ValueError(f"{setting}: {_misfit(weights, name, shape)}")
    ignored = [re.compile(rule) for rule in model._keys_to_ignore_on_load_unexpected or ()]
    extra = sorted(found.keys() - wanted.keys())
    if extra := [name for name in extra if not any(rule.search(name) for rule in ignored)]:
        raise ValueError(
            f"{setting}: {weights.folder}: the weights hold {_listed(extra)}, which the "
            f"{architecture.model_type} of config.json does not have and would not use; correct "
            "config.json, or take them out of the files"
        )


def _check_tied(weights: WeightFiles, names: PartNames, setting: str) -> None:
    """A head that is stored beside the embedding which it is said to be must be equal to it."""
    head, embedding = names.head_weight, names.embedding_weight
    rows = weights.shapes[head][0]
    equal = weights.shapes[head] == weights.shapes.get(embedding)
    for start in range(0, rows if equal else 0, _COMPARED_ROWS):
        part = slice(start, min(start + _COMPARED_ROWS, rows))
        equal = equal and torch.equal(weights.read(head, part), weights.read(embedding, part))
    if not equal:
        raise ValueError(
            f"{setting}: {weights.folder}: config.json says tie_word_embeddings: true, but the "
            f"weights hold a {head} that differs from {embedding}; set tie_word_embeddings: false "
            f"in config.json, or take {head} out of the files"
        )


def _misfit(weights: Weights, name: str, wanted: tuple[int, ...]) -> str:
    return (
        f"{weights.folder}: {name} is {weights.shapes[name]}, config.json implies {tuple(wanted)}"
    )


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")

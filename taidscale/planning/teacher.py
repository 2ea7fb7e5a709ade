"""Bytes of the teacher on one rank: its shard, and what its forward needs.

DeepSpeed splits attention by whole key-value heads, and MLPs by 64 columns, so that one rank may
have more than its share. Experts are split like MLPs, each of them: every rank has a part of all.
Routers, norms and what latent keys are made of stay whole on every rank, the embedding too; the
head is ours. Shapes as in `memory`.
"""

from dataclasses import replace
from functools import partial

from taidscale.models.layer_parts import Parameter
from taidscale.models.shape import ModelShape
from taidscale.planning import activations
from taidscale.planning.workload import Workload

_GRAIN = 64
"""Columns of an MLP that DeepSpeed does not part (`tp_grain_size`)."""


def head_share(model: ModelShape, ranks: int) -> float:
    """Of the attention heads, on the rank with the most."""
    return -(-model.num_kv_heads // ranks) / model.num_kv_heads


def mlp_width(model: ModelShape, ranks: int) -> int:
    """Columns of the MLP on the rank with the most."""
    width = model.intermediate_size
    if width < _GRAIN:
        return -(-width // ranks)
    grains, left = divmod(width, _GRAIN)
    last = grains // ranks * _GRAIN + left
    return max(-(-grains // ranks) * _GRAIN, last)


def shard(load: Workload) -> int:
    """This rank's part of the layers, the embedding whole, and its rows of the head."""
    model, ranks = load.teacher, load.tp_size
    if model is None:
        return 0
    layers = sum(
        number * sum(p.copies * p.size * _part(model, p, ranks) for p in layer.parameters)
        for layer, number in model.layers
    )
    rows = 0 if model.tied else load.columns * model.hidden_size
    ends = sum(p.size for p in model.ends)
    trunk = round(layers) + model.head_parameters + ends
    return load.teacher_bytes * (trunk + rows)


def _part(model: ModelShape, parameter: Parameter, ranks: int) -> float:
    """Of a parameter, on the rank with the most. Every rank has columns of every expert."""
    match parameter.share:
        case "whole":
            return 1.0
        case "heads":
            return head_share(model, ranks)
        case "columns":
            width = parameter.width
            return _columns(model, ranks, width) / width if width else 1.0


def _columns(model: ModelShape, ranks: int, width: int) -> int:
    """Of an MLP or expert of so many columns, those of the rank with the most."""
    return mlp_width(replace(model, intermediate_size=width), ranks)


def hidden(load: Workload) -> dict[str, int]:
    """The hidden states of all N tokens, which the loss reads."""
    if not load.learns_from_teacher or load.teacher is None:
        return {}
    size = load.group_tokens * load.teacher.hidden_size * load.teacher_bytes
    return {"teacher hidden states": size}


def moments(load: Workload) -> list[dict[str, int]]:
    """In its last slice, and while the slices become one tensor."""
    if not load.learns_from_teacher or load.teacher is None or load.config.teacher is None:
        return [{}]
    model, item, seq_len = load.teacher, load.teacher_bytes, load.config.seq_len
    sequences = max(1, load.config.teacher.tokens_per_forward // seq_len)
    tokens = min(sequences * seq_len, load.group_tokens)
    heads, columns = head_share(model, load.tp_size), partial(_columns, model, load.tp_size)
    work = activations.forward_work(model, seq_len, item, heads, columns)
    work += min(2, model.num_layers) * activations.layer_input(model, item)  # embeddings stay, too
    work += activations.positions(model, seq_len, item)
    (states,) = hidden(load).values()
    before = states - tokens * model.hidden_size * item
    return [
        {"teacher hidden states": before, "teacher workspace": tokens * work},
        {"teacher hidden states": states, "teacher workspace": states},
    ]

"""Bytes of the teacher on one rank: its shard, and what its forward needs.

Attention is divided by whole heads, so that one rank may have more than its share. Experts are
split like MLPs, each of them: every rank has a part of all. Routers, norms and what latent keys are
made of stay whole on every rank, the embedding too; the head is ours. Shapes as in `memory`.
"""

from functools import partial

from taidscale.models.layer_parts import Parameter
from taidscale.models.shape import ModelShape
from taidscale.planning import activations
from taidscale.planning.workload import Workload
from taidscale.teachers.shares import COLUMNS, PER_HEAD, ROWS, WHOLE, Axis, Share, length

_FLOAT8, _FACTOR = 1, 4
"""Bytes of a projection's element in an fp8 teacher, and of the factor of each of its rows."""
_DIVIDED = frozenset({*COLUMNS, *ROWS, *PER_HEAD})
_IN_FLOAT8 = frozenset({*COLUMNS, *ROWS, *WHOLE, "w1", "w2", "w3"})


def head_share(model: ModelShape, ranks: int) -> float:
    """Of the query heads, on the rank with the most."""
    return max(length(one.queries) for one in _shares(model, ranks)) / model.num_heads


def columns(model: ModelShape, ranks: int, width: int) -> int:
    """Of an MLP or expert of so many columns, those of the rank with the most."""
    return max(length(one.columns(width)) for one in _shares(model, ranks))


def shard(load: Workload) -> int:
    """This rank's part of the layers, the embedding whole, and its rows of the head."""
    model, ranks, config = load.teacher, load.tp_size, load.config.teacher
    if model is None or config is None:
        return 0
    rows = 0 if model.tied else load.columns * model.hidden_size
    ends = sum(p.size for p in model.ends)
    total = load.teacher_bytes * (model.head_parameters + ends + rows)
    for layer, number in model.layers:
        for parameter in layer.parameters:
            own = parameter.copies * parameter.size * _part(model, parameter, ranks)
            item = load.teacher_bytes
            if config.dtype == "fp8" and parameter.multiplies and _is_projection(parameter):
                item = _FLOAT8
                total += round(number * _FACTOR * own / parameter.shape[-1])
            total += round(number * item * own)
    return total


def _shares(model: ModelShape, ranks: int) -> list[Share]:
    return [Share(rank, ranks, model.num_heads, model.num_kv_heads) for rank in range(ranks)]


def _part(model: ModelShape, parameter: Parameter, ranks: int) -> float:
    """Of a parameter, on the rank with the most. Every rank has columns of every expert."""
    match parameter.share:
        case "whole":
            return 1.0
        case "columns":
            width = parameter.width
            return columns(model, ranks, width) / width if width else 1.0
        case "heads":
            shares = _shares(model, ranks)
            axes = _axes(parameter)
            size = parameter.shape[-1] if _leaf(parameter) in ROWS else parameter.shape[0]
            size = parameter.copies if _is_module_of_each(parameter) else size
            return max(sum(map(length, one.parts(axes, size))) for one in shares) / size


def _leaf(parameter: Parameter) -> str:
    """What a parameter belongs to: `q_proj` of `self_attn.q_proj.weight`."""
    return next(part for part in reversed(parameter.name.split(".")) if part in _DIVIDED)


def _is_module_of_each(parameter: Parameter) -> bool:
    """Whether each head has a norm of its own, as StableLM's may."""
    return parameter.copies > 1 and "norms" in parameter.name


def _is_projection(parameter: Parameter) -> bool:
    return any(part in _IN_FLOAT8 for part in parameter.name.split("."))


def _axes(parameter: Parameter) -> tuple[Axis, ...]:
    leaf = _leaf(parameter)
    if leaf in COLUMNS:
        return COLUMNS[leaf]
    return (ROWS[leaf] if leaf in ROWS else PER_HEAD[leaf],)


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
    heads, widths = head_share(model, load.tp_size), partial(columns, model, load.tp_size)
    work = activations.forward_work(model, seq_len, item, heads, widths)
    work += min(2, model.num_layers) * activations.layer_input(model, item)  # embeddings stay, too
    work += activations.positions(model, seq_len, item)
    (states,) = hidden(load).values()
    before = states - tokens * model.hidden_size * item
    return [
        {"teacher hidden states": before, "teacher workspace": tokens * work},
        {"teacher hidden states": states, "teacher workspace": states},
    ]

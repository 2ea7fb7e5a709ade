"""Bytes of the teacher on one rank: its shard, and what its forward needs.

DeepSpeed splits attention by whole key-value heads, and MLPs by 64 columns, so that one rank may
have more than its share; the embedding stays whole on every rank, the head is ours. Shapes as in
`memory`.
"""

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
    heads, mlp = head_share(model, ranks), mlp_width(model, ranks) / model.intermediate_size
    shares = {"q_proj": heads, "k_proj": heads, "v_proj": heads, "o_proj": heads}
    shares |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), mlp)
    layer = 0.0
    for name, shape in model.layer_tensors().items():
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        owner, _, bias = name.partition(".")
        whole = bias and owner in ("o_proj", "down_proj")
        layer += size * (1 if whole else shares.get(owner, 1))
    rows = 0 if model.tied else load.columns * model.hidden_size
    trunk = round(model.num_layers * layer) + model.head_parameters + model.hidden_size
    return load.teacher_bytes * (trunk + rows)


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
    heads, width = head_share(model, load.tp_size), mlp_width(model, load.tp_size)
    work = activations.forward_work(model, seq_len, item, heads, width)
    work += activations.layer_input(model, item) + activations.positions(model)
    (states,) = hidden(load).values()
    before = states - tokens * model.hidden_size * item
    return [
        {"teacher hidden states": before, "teacher workspace": tokens * work},
        {"teacher hidden states": states, "teacher workspace": states},
    ]

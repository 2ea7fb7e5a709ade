"""Bytes that one token's activations take in the trunks of transformers.

That is with SDPA or flash attention; eager attention adds its scores.

What is saved for backward was read off the modules' operations: a norm keeps its input in float32,
the normalised values and its output; attention q, k, v, its output and a sum per head; the MLP four
times its width.
"""

from taidscale.models.shape import ModelShape


def saved_per_layer(model: ModelShape, seq_len: int, item: int) -> int:
    """Of one layer, per token, kept from forward to backward.

    Args:
        model: the student.
        seq_len: S.
        item: bytes of an activation.
    """
    d, q, kv = model.hidden_size, model.query_size, model.kv_size
    before = _norm(model, item)  # whose output the projections keep
    after = before - item  # whose output is only added
    norms = d * (2 * before + (model.norms_per_layer - 2) * after)
    attention = item * (2 * q + 2 * kv) + 4 * model.num_heads
    if model.qk_norms:
        attention += after * (q + kv)
    if model.whole_scores:
        attention += score_bytes(model, seq_len, item)
    return norms + attention + 4 * item * model.intermediate_size


def saved_by_last_norm(model: ModelShape, item: int) -> int:
    """What goes first in backward, per token."""
    return model.hidden_size * _norm(model, item)


def positions(model: ModelShape) -> int:
    """Ids, mask and rotations, per token."""
    return 2 * model.head_dim + 24


def layer_input(model: ModelShape, item: int) -> int:
    """What gradient checkpointing keeps of a layer, per token."""
    return model.hidden_size * item


def forward_work(
    model: ModelShape, seq_len: int, item: int, head_share: float = 1.0, width: int | None = None
) -> int:
    """Most that a layer holds at once where nothing is saved, per token, beyond its input.

    Args:
        model: its shape.
        seq_len: S.
        item: bytes of an activation.
        head_share: of its heads that this rank computes.
        width: of its MLP on this rank; all of it by default.
    """
    d, heads = model.hidden_size, head_share * (3 * model.query_size + 3 * model.kv_size)
    mlp = item * (3 * (model.intermediate_size if width is None else width) + 2 * d)
    attention = item * (heads + d)
    if model.whole_scores:
        attention += head_share * score_bytes(model, seq_len, item)
    return round(max(mlp, attention, d * (4 + 4 + item)))


def backward_work(model: ModelShape, seq_len: int, item: int) -> int:
    """What the backward of one layer holds beyond what was saved, per token."""
    mlp = item * (2 * model.intermediate_size + 2 * model.hidden_size)
    scores = score_bytes(model, seq_len, item) // 2 if model.whole_scores else 0
    return max(mlp, scores)


def score_bytes(model: ModelShape, seq_len: int, item: int) -> int:
    """Capped scores, their softmax in float32 and a copy of it where that is wider, per token."""
    copies = item + 4 + (item if item < 4 else 0)
    return model.num_heads * seq_len * copies


def _norm(model: ModelShape, item: int) -> int:
    """Bytes of an element: the input in float32, the normalised one and the output.

    Gemma's normalises in float32.
    """
    normalised = 4 if model.family.startswith("gemma") else item
    return 4 + normalised + item

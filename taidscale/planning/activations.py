"""Bytes that one token's activations take in the trunks of transformers.

That is with SDPA or flash attention; eager attention adds its scores. What is saved for backward,
and what exists at once where nothing is saved, was read off the modules' operations; sums of a
token or of a head, of a few bytes, are left out.

Elements of a token: d hidden, q of all queries, kv of all keys (and as many of values), w columns
of its MLP.
"""

from collections.abc import Callable

from taidscale.models.layer_parts import Experts, LayerShape
from taidscale.models.layer_styles import Norm, Turning
from taidscale.models.shape import ModelShape

_IN_STEPS = {"gelu_new": (3, 2, 0), "relu2": (0, 1, 1)}
"""Activations that are several operations of torch: tensors of w columns besides those of one
operation that are kept, that are there at once in forward, and at once in backward."""
_ONE_STEP = (0, 0, 0)


def saved_by_layers(model: ModelShape, seq_len: int, item: int) -> int:
    """Of all layers, per token, kept from forward to backward."""
    kinds = model.layers
    return sum(number * saved_per_layer(model, layer, seq_len, item) for layer, number in kinds)


def saved_per_layer(model: ModelShape, layer: LayerShape, seq_len: int, item: int) -> int:
    """Of one dense layer, per token, kept from forward to backward.

    Args:
        model: the student.
        layer: its kind.
        seq_len: S.
        item: bytes of an activation.
    """
    mlp = 4 if model.style.gated else 2  # inputs of the activation, its outputs, and products
    mlp += _IN_STEPS.get(model.activation, _ONE_STEP)[0]
    return (
        _saved_by_norms(model, item)
        + _saved_by_attention(model, layer, seq_len, item)
        + item * mlp * model.intermediate_size
    )


def _saved_by_norms(model: ModelShape, item: int) -> int:
    """And what projections read, which norms before them made."""
    style = model.style
    before = style.norms_if_parallel if model.parallel else style.norms_before
    source, between = _norm(style.norm, item)
    number = len(before) + len(style.norms_after)
    elements = number * (source + between)
    if model.parallel and style.norm is Norm.LAYER:
        elements -= (len(before) - 1) * source  # they keep the same tensor
    reads = 1 if model.parallel and len(before) == 1 else 2
    return model.hidden_size * (elements + reads * item)


def _saved_by_attention(model: ModelShape, layer: LayerShape, seq_len: int, item: int) -> int:
    style, query, kv = model.style, model.attention.query_size, model.attention.kv_size
    repeats = _repeats(model, layer, seq_len)
    elements = 2 * query + 2 * (query if repeats else kv)  # queries, keys, values, their sums
    if style.packed_qkv and not repeats:
        elements += query + kv  # of the projection, of which values are a view
    if style.joins_turned:
        elements += query
    if _masked(model, layer, seq_len) and not model.whole_scores:
        elements += seq_len  # the mask, as numbers that SDPA adds to scores
    saved = item * elements + 4 * model.num_heads
    if model.norms_heads:
        saved += sum(_norm(style.norm, item)) * (query + kv)
    return saved + (score_bytes(model, seq_len, item) if model.whole_scores else 0)


def saved_by_last_norm(model: ModelShape, item: int) -> int:
    """What goes first in backward, per token."""
    return model.hidden_size * (sum(_norm(model.style.norm, item)) + item)


def positions(model: ModelShape, seq_len: int, item: int) -> int:
    """Ids, masks and rotations, per token.

    SDPA needs masks where there are windows or documents, of a byte; eager attention always, of
    numbers.
    """
    if model.whole_scores:
        masks = item * len({layer.window for layer, _ in model.layers})
    else:
        masked = (layer for layer, _ in model.layers if _masked(model, layer, seq_len))
        masks = len({layer.window for layer in masked})
    return 2 * model.attention.key_dim + 24 + masks * seq_len


def layer_input(model: ModelShape, item: int) -> int:
    """What gradient checkpointing keeps of a layer, per token."""
    return model.hidden_size * item


def forward_work(
    model: ModelShape,
    seq_len: int,
    item: int,
    head_share: float = 1.0,
    columns: Callable[[int], int] = int,
) -> int:
    """Most that a layer holds at once where nothing is saved, per token, beyond its input.

    Args:
        model: its shape.
        seq_len: S.
        item: bytes of an activation.
        head_share: of its heads that this rank computes.
        columns: of an MLP of so many, those that this rank computes; all of them by default.
    """
    found: list[float] = [model.hidden_size * _norm_work(model.style.norm, item)]
    # Eager attention hands out its scores, which stay during the MLP.
    scores = head_share * model.num_heads * seq_len * item if model.whole_scores else 0
    for layer, _ in model.layers:
        found.append(_attention_work(model, layer, seq_len, item, head_share))
        if layer.experts is not None:
            found.append(scores + item * _experts_work(model, layer.experts, columns))
        else:
            found.append(scores + item * _mlp_work(model, columns(model.intermediate_size)))
    return round(max(found))


def backward_work(model: ModelShape, seq_len: int, item: int) -> int:
    """What the backward of one layer holds beyond what was saved, per token."""
    wide = 2 + _IN_STEPS.get(model.activation, _ONE_STEP)[2]
    mlp = item * (wide * model.intermediate_size + 2 * model.hidden_size)
    scores = score_bytes(model, seq_len, item) // 2 if model.whole_scores else 0
    return max(mlp, scores)


def score_bytes(model: ModelShape, seq_len: int, item: int) -> int:
    """Capped scores, their softmax in float32 and a copy of it where that is wider, per token."""
    copies = item + 4 + (item if item < 4 else 0)
    return model.num_heads * seq_len * copies


def _masked(model: ModelShape, layer: LayerShape, seq_len: int) -> bool:
    """Whether attention needs a mask besides what is causal."""
    if model.masks == "windows":
        return layer.window is not None and layer.window < seq_len
    return model.masks == "all"


def _repeats(model: ModelShape, layer: LayerShape, seq_len: int) -> bool:
    """Whether keys and values are copied for each query head, as wherever there is a mask."""
    masked = model.whole_scores or _masked(model, layer, seq_len) or model.style.repeats_keys
    return masked and model.num_heads > model.num_kv_heads


def _attention_work(
    model: ModelShape, layer: LayerShape, seq_len: int, item: int, head_share: float
) -> float:
    """Bytes while queries and keys turn, or while values are summed."""
    style, size, d = model.style, model.attention, model.hidden_size
    query, kv = head_share * size.query_size, head_share * size.kv_size
    value = head_share * size.value_size
    if size.latent_rank:
        # Queries and keys as projected and as put together, what is compressed, and values twice.
        compressed = size.query_rank + size.latent_rank + size.rotary_dim
        return item * (d + compressed + 2 * query + 2 * kv + 3 * value)
    made = query + 2 * kv
    summing = (made if style.packed_qkv else kv) + 2 * query + kv  # by views, values keep it whole
    summing += query * style.joins_turned
    if _repeats(model, layer, seq_len):
        summing += 2 * query
    work = item * (d + max(made + 3 * query, made + query + 3 * kv, summing))
    if style.turning is not Turning.SAME and item < 4:
        turning = 4 * max(3 * query, query + 3 * kv)
        if style.turning is Turning.COPIES:
            turning += 4 * (query + kv)
        work = max(work, item * (d + made) + turning)
    return work + (head_share * score_bytes(model, seq_len, item) if model.whole_scores else 0)


def _mlp_work(model: ModelShape, width: int) -> int:
    """Elements of a dense MLP, with its input and output."""
    style = model.style
    wide = (4 if style.packed_gate else 3) if style.gated else 2
    wide += _IN_STEPS.get(model.activation, _ONE_STEP)[1]
    states = 2 if model.parallel else 2 + style.spare_states
    return wide * width + states * model.hidden_size


def _experts_work(model: ModelShape, experts: Experts, columns: Callable[[int], int]) -> int:
    """Elements: a row for each expert of a token, in one product; then what is shared.

    With the layer's hidden state, the normalised one and the sum of the experts.
    """
    d, width = model.hidden_size, columns(experts.width)
    routed = experts.active * (d + width + max(d, 2 * width))
    shared = 3 * columns(experts.shared_width) + d if experts.shared_width else 0
    return max(routed, shared) + 3 * d


def _norm(norm: Norm, item: int) -> tuple[int, int]:
    """Bytes of an element that a norm keeps: of its input, and between that and its output."""
    match norm:
        case Norm.RMS:
            return 4, item
        case Norm.RMS_FLOAT32:
            return 4, 4
        case Norm.LAYER:
            return item, 0
        case Norm.LAYER_UNWEIGHTED:
            return 4, 0
        case Norm.LAYER_FLOAT32:
            return 8, 4


def _norm_work(norm: Norm, item: int) -> int:
    """Bytes of an element that exist at once."""
    return item if norm is Norm.LAYER else 8 + item

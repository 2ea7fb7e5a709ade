"""Which parameters the layers of a model have.

Names and shapes are those that transformers gives them.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from transformers import PretrainedConfig

from taidscale.models.layer_parts import (
    Attention,
    Experts,
    LayerShape,
    Parameter,
    Share,
    experts_of,
)
from taidscale.models.layer_styles import HeadNorm, LayerStyle, Windows, switched


def layer_shapes(
    config: PretrainedConfig, style: LayerStyle, attention: Attention
) -> tuple[tuple[LayerShape, int], ...]:
    """The kinds of layers of a model, in the order in which they first come, and their numbers."""
    around = (*_attention(config, style, attention), *_norms(config, style))
    kinds: Counter[tuple[bool, int | None]] = Counter()
    for index in range(config.num_hidden_layers):
        kinds[_is_sparse(config, index), _window(config, style, index)] += 1
    found = []
    for (sparse, window), number in kinds.items():
        experts = experts_of(config) if sparse else None
        if experts is None:
            mlp = _mlp(config, style, config.intermediate_size)
        else:
            mlp = _experts(config, style, experts)
        found.append((LayerShape((*around, *mlp), window, experts), number))
    return tuple(found)


def norm(name: str, size: int, style: LayerStyle) -> Iterator[Parameter]:
    """Weights of a norm, and its bias where the family has one."""
    if style.norm_weight:
        yield Parameter(f"{name}.weight", (size,))
    if style.norm_bias:
        yield Parameter(f"{name}.bias", (size,))


def _is_sparse(config: PretrainedConfig, index: int) -> bool:
    match config.model_type:
        case "mixtral":
            return True
        case "qwen2_moe" | "qwen3_moe":
            period = (index + 1) % config.decoder_sparse_step == 0
            return period and config.num_experts > 0 and index not in config.mlp_only_layers
        case "glm4_moe" | "deepseek_v3":
            return bool(index >= config.first_k_dense_replace)
    return False


def _window(config: PretrainedConfig, style: LayerStyle, index: int) -> int | None:
    size: int | None = getattr(config, "sliding_window", None) or None  # 0 in 5's Qwen2-MoE
    match style.windows:
        case Windows.NONE:
            return None
        case Windows.ALL:
            return size
        case Windows.BY_TYPE:
            return size if config.layer_types[index] == "sliding_attention" else None


def _projection(
    name: str,
    shape: tuple[int, int],
    share: Share,
    bias: bool,
    *,
    by_rows: bool = False,
    width: int = 0,
) -> Iterator[Parameter]:
    """A matrix and its bias, which is whole where the inputs are divided."""
    yield Parameter(f"{name}.weight", shape, share, width, multiplies=True)
    if bias:
        yield Parameter(f"{name}.bias", shape[:1], "whole" if by_rows else share, width)


def _attention(
    config: PretrainedConfig, style: LayerStyle, attention: Attention
) -> Iterator[Parameter]:
    """Projections of attention, and the norms of its queries and keys."""
    d, prefix = config.hidden_size, style.attention
    query, kv = attention.query_size, attention.kv_size
    sizes = (query + 2 * kv,) if style.packed_qkv else (query, kv, kv)
    bias = switched(config, style.qkv_bias)
    for name, size in zip(style.qkv, sizes, strict=False):
        yield from _projection(f"{prefix}.{name}", (size, d), "heads", bias)
    if not style.qkv:
        yield from _latent(config, style, attention, bias)
    out = (d, d if config.model_type == "helium" else attention.value_size)
    with_bias = switched(config, style.output_bias)
    yield from _projection(f"{prefix}.{style.output}", out, "heads", with_bias, by_rows=True)
    if switched(config, style.head_norm_if):
        for name, number in zip(
            style.head_norm_names, (attention.num_heads, attention.num_kv_heads), strict=True
        ):
            yield from _head_norm(f"{prefix}.{name}", number, attention.key_dim, style)


def _head_norm(name: str, number: int, dim: int, style: LayerStyle) -> Iterator[Parameter]:
    match style.head_norm:
        case HeadNorm.NONE:
            return
        case HeadNorm.ALIKE:
            yield Parameter(f"{name}.weight", (dim,))
            if style.head_norm_bias:
                yield Parameter(f"{name}.bias", (dim,))
        case HeadNorm.EACH:
            yield Parameter(f"{name}.weight", (number, dim), "heads")
        case HeadNorm.EACH_MODULE:
            each = f"{name}.norms.*.weight"
            yield Parameter(each, (dim,), "heads", copies=number, active=number)
        case HeadNorm.ALL:
            yield Parameter(f"{name}.weight", (number * dim,), "heads")


def _latent(
    config: PretrainedConfig, style: LayerStyle, attention: Attention, bias: bool
) -> Iterator[Parameter]:
    """Queries, keys and values out of a few numbers, which every rank makes whole."""
    d, prefix, heads = config.hidden_size, style.attention, attention.num_heads
    if attention.query_rank:
        rank = attention.query_rank
        yield from _projection(f"{prefix}.q_a_proj", (rank, d), "whole", bias)
        yield from norm(f"{prefix}.q_a_layernorm", rank, style)
        queries = (attention.query_size, rank)
        yield from _projection(f"{prefix}.q_b_proj", queries, "heads", bias=False)
    else:
        queries = (attention.query_size, d)
        yield from _projection(f"{prefix}.q_proj", queries, "heads", bias=False)
    rank = attention.latent_rank
    compressed = (rank + attention.rotary_dim, d)
    yield from _projection(f"{prefix}.kv_a_proj_with_mqa", compressed, "whole", bias)
    yield from norm(f"{prefix}.kv_a_layernorm", rank, style)
    of_head = attention.key_dim - attention.rotary_dim + attention.value_dim
    yield from _projection(f"{prefix}.kv_b_proj", (heads * of_head, rank), "heads", bias=False)


def _norms(config: PretrainedConfig, style: LayerStyle) -> Iterator[Parameter]:
    parallel = switched(config, style.parallel)
    before = style.norms_if_parallel if parallel else style.norms_before
    for name in (*before, *style.norms_after):
        yield from norm(name, config.hidden_size, style)


def _mlp(
    config: PretrainedConfig, style: LayerStyle, width: int, below: str | None = None
) -> Iterator[Parameter]:
    """A dense MLP of so many columns."""
    d, prefix = config.hidden_size, below or style.mlp
    *first, last = style.mlp_names
    bias = switched(config, style.mlp_bias)
    rows = 2 * width if style.packed_gate else width
    for name in first:
        yield from _projection(f"{prefix}.{name}", (rows, d), "columns", bias, width=width)
    shape = (d, width)
    yield from _projection(f"{prefix}.{last}", shape, "columns", bias, by_rows=True, width=width)


def _experts(config: PretrainedConfig, style: LayerStyle, experts: Experts) -> Iterator[Parameter]:
    """The router, whole, all experts, and what is shared."""
    d = config.hidden_size
    yield Parameter(f"{style.mlp}.gate.weight", (experts.number, d), multiplies=True)
    for one in _mlp(config, style, experts.width, f"{style.mlp}.experts.*"):
        yield replace(one, copies=experts.number, active=experts.active)
    if experts.shared_width is not None:
        plural = "" if config.model_type == "qwen2_moe" else "s"
        shared = f"{style.mlp}.shared_expert{plural}"
        yield from _mlp(config, style, experts.shared_width, shared)
        if config.model_type == "qwen2_moe":
            yield Parameter(f"{style.mlp}.shared_expert_gate.weight", (1, d), multiplies=True)

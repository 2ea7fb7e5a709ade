"""From transformers' layers to those of one rank, and what it reads from the files.

Every parameter has its place: a projection or norm of `taidscale.teachers.shares`, a mixture of
experts, or something that every rank holds whole. What has none is refused by its name.
"""

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import PretrainedConfig

from taidscale.engine.row_parallel import RowParallelLinear
from taidscale.models.part_names import part_names
from taidscale.models.reads import Read, Reads
from taidscale.teachers.mixtures import is_mixture, replace_mixture
from taidscale.teachers.shares import COLUMNS, PER_HEAD, ROWS, WHOLE, Axis, Share, length
from taidscale.teachers.wide_norm import WideNorm
from taidscale.teachers.without_heads import skip_heads

WIDE_NORMS = frozenset({"olmo2", "olmo3"})
"""Families that normalise the queries of all heads together, and their keys."""


def divide(
    trunk: nn.Module,
    architecture: PretrainedConfig,
    share: Share,
    group: dist.ProcessGroup | None,
) -> Reads:
    """Leave this rank's part of a trunk whose parameters are on the meta device.

    Args:
        trunk: is changed.
        architecture: of the model.
        share: of this rank.
        group: of the ranks that hold the rest; None if there are none.

    Returns:
        What each parameter that is not read whole is read from, by its name in the trunk.

    Raises:
        ValueError: naming parameters whose place is not known.
    """
    prefix = part_names(architecture.model_type).trunk
    _check_places(trunk, architecture)
    reads: Reads = {}
    for name, module in list(trunk.named_modules()):
        if is_mixture(module):
            reads |= replace_mixture(trunk, name, architecture, share, group, prefix)
    if group is None:
        return reads
    for name, module in list(trunk.named_modules()):
        leaf = name.rpartition(".")[2]
        if isinstance(module, nn.Linear) and leaf in COLUMNS:
            parts = share.parts(COLUMNS[leaf], module.out_features)
            reads |= _cut_outputs(module, name, prefix, parts)
        elif isinstance(module, nn.Linear) and leaf in ROWS:
            part = share.part(ROWS[leaf], module.in_features)
            _cut_inputs(module, part)
            trunk.set_submodule(name, RowParallelLinear(module, group))
            reads[f"{name}.weight"] = [Read(f"{prefix}.{name}.weight", part, dim=1)]
        elif leaf in PER_HEAD and _is_per_head(module, architecture):
            reads |= _cut_norm(trunk, name, architecture, share, group, prefix)
    _adapt_attention(trunk, share)
    return reads


def _adapt_attention(trunk: nn.Module, share: Share) -> None:
    """Have attention know how many heads this rank has; leave it out where there are none."""
    for module in list(trunk.modules()):
        inputs = [ROWS.get(leaf) for leaf, _ in module.named_children()]
        if Axis.QUERIES not in inputs:
            continue
        if length(share.queries):
            _tell_heads(module, share)
        else:
            skip_heads(module)


def _check_places(trunk: nn.Module, architecture: PretrainedConfig) -> None:
    """Refuse what would be held whole though nobody said that it may be."""
    unknown = [name for name, module in trunk.named_modules() if not _has_place(name, module)]
    mixtures = [name for name, module in trunk.named_modules() if is_mixture(module)]
    inside = tuple(f"{name}." for name in mixtures)
    if left := [name for name in unknown if not name.startswith(inside or ("-",))]:
        raise ValueError(
            f"teacher.model: how to divide {', '.join(left[:4])} of {architecture.model_type} is "
            "not known; take a teacher of another family, or write its text with another program "
            "and train on that"
        )


def _has_place(name: str, module: nn.Module) -> bool:
    if not list(module.parameters(recurse=False)):
        return True
    leaf = name.rpartition(".")[2]
    if isinstance(module, nn.Linear):
        return leaf in COLUMNS or leaf in ROWS or leaf in WHOLE
    return isinstance(module, nn.Embedding) or "Norm" in type(module).__name__


def _cut_outputs(linear: nn.Linear, name: str, prefix: str, parts: list[slice]) -> Reads:
    own = sum(length(part) for part in parts)
    reads = {f"{name}.weight": [Read(f"{prefix}.{name}.weight", part) for part in parts]}
    linear.weight = _empty_like(linear.weight, own, linear.in_features)
    if linear.bias is not None:
        linear.bias = _empty_like(linear.bias, own)
        reads[f"{name}.bias"] = [Read(f"{prefix}.{name}.bias", part) for part in parts]
    linear.out_features = own
    return reads


def _cut_inputs(linear: nn.Linear, part: slice) -> None:
    linear.in_features = length(part)
    linear.weight = _empty_like(linear.weight, linear.out_features, linear.in_features)


def _is_per_head(module: nn.Module, architecture: PretrainedConfig) -> bool:
    """Whether the heads have weights of their own, as OLMo's, Cohere's and StableLM's have."""
    if architecture.model_type in WIDE_NORMS:
        return True
    weight = getattr(module, "weight", None)
    return weight is None or weight.ndim > 1


def _cut_norm(
    trunk: nn.Module,
    name: str,
    architecture: PretrainedConfig,
    share: Share,
    group: dist.ProcessGroup,
    prefix: str,
) -> Reads:
    module: Any = trunk.get_submodule(name)
    axis = PER_HEAD[name.rpartition(".")[2]]
    if isinstance(norms := getattr(module, "norms", None), nn.ModuleList):
        own = share.part(axis, len(norms))
        module.norms = norms[own]
        return {
            f"{name}.norms.{number}.{kind}": [Read(f"{prefix}.{name}.norms.{head}.{kind}")]
            for number, head in enumerate(range(own.start, own.stop))
            for kind, _ in norms[head].named_parameters()
        }
    weight = module.weight
    part = share.part(axis, len(weight))
    cut = _empty_like(weight, length(part), *weight.shape[1:])
    if architecture.model_type in WIDE_NORMS:
        copies = share.key_copies if axis == PER_HEAD["k_norm"] else 1
        eps = architecture.rms_norm_eps
        trunk.set_submodule(name, WideNorm(cut, copies * len(weight), eps, group))
    else:
        module.weight = cut
    return {f"{name}.weight": [Read(f"{prefix}.{name}.weight", part)]}


def _tell_heads(attention: Any, share: Share) -> None:
    """Give an attention module the numbers of its own heads, where it keeps or asks for them."""
    heads, kv_heads = length(share.queries), length(share.keys)
    if (config := getattr(attention, "config", None)) is not None:
        attention.config = copy.copy(config)
        attention.config.num_attention_heads = heads
        attention.config.num_key_value_heads = kv_heads
    if hasattr(attention, "hidden_size") and hasattr(
        attention, "head_dim"
    ):  # of all heads together
        attention.hidden_size = heads * attention.head_dim
    for name, number in (("num_heads", heads), ("num_key_value_heads", kv_heads)):
        if hasattr(attention, name):
            setattr(attention, name, number)
    if kv_heads and hasattr(attention, "num_key_value_groups"):
        attention.num_key_value_groups = heads // kv_heads


def _empty_like(parameter: torch.Tensor, *shape: int) -> nn.Parameter:
    return nn.Parameter(parameter.new_empty(shape), requires_grad=False)

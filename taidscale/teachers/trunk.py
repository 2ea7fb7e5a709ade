"""A teacher's trunk, divided over a tp_group, with its weights."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from taidscale.config.schema import TeacherType
from taidscale.models.families import attention_for
from taidscale.models.load import empty_model, fill
from taidscale.models.part_names import part_names, trunk_of
from taidscale.models.reads import Read
from taidscale.models.stored_names import stored_names
from taidscale.models.student import DTYPES
from taidscale.models.weights import Weights, find_weights
from taidscale.parallel.grid import Grid
from taidscale.teachers.divide import divide
from taidscale.teachers.float8 import in_float8
from taidscale.teachers.shares import Share


class Trunk(nn.Module):
    """The model without its head."""

    model: Any
    num_parameters: int
    """Of all ranks together, each once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())


def split_trunk(
    architecture: PretrainedConfig,
    weights: Weights,
    dtype: TeacherType,
    attention: str,
    grid: Grid,
) -> Trunk:
    """This rank's share of a trunk, with its weights, frozen.

    Args:
        architecture: of the model.
        weights: its files.
        dtype: of the parameters; see `compute_type`. Buffers stay float32.
        attention: implementation that is wanted; see `attention_for`.
        grid: whose tp_group it is divided over.

    Raises:
        ValueError: if weights are missing or damaged, or a parameter's place is not known.

    Cost: every rank reads its slices of the weights.
    """
    attention = attention_for(architecture, attention)
    trunk = _empty_trunk(architecture, compute_type(dtype), attention)
    share = share_of(architecture, grid.tp_rank, grid.tp_size)
    group = grid.tp_group if grid.tp_size > 1 else None
    reads = divide(trunk.model, architecture, share, group)
    _fill(trunk, architecture, weights, grid.device, reads, dtype)
    return trunk


def whole_trunk(
    architecture: PretrainedConfig, folder: Path, dtype: TeacherType, device: torch.device
) -> Trunk:
    """A trunk of transformers' own layers alone: what a split one is compared with.

    Raises:
        ValueError: if weights are missing or damaged.
    """
    attention = attention_for(architecture, "sdpa")
    trunk = _empty_trunk(architecture, compute_type(dtype), attention)
    _fill(trunk, architecture, find_weights(folder, "teacher.model"), device, {}, dtype)
    return trunk


def compute_type(dtype: TeacherType) -> torch.dtype:
    """Type of activations, and of all parameters but the matrices of an fp8 teacher."""
    return torch.bfloat16 if dtype == "fp8" else DTYPES[dtype]


def share_of(architecture: PretrainedConfig, rank: int, ranks: int) -> Share:
    """What one rank of a tp_group holds."""
    heads = architecture.num_attention_heads
    return Share(rank, ranks, heads, getattr(architecture, "num_key_value_heads", None) or heads)


def _empty_trunk(architecture: PretrainedConfig, dtype: torch.dtype, attention: str) -> Trunk:
    """Parameters on the meta device, buffers (RoPE frequencies) real."""
    model = trunk_of(empty_model(architecture, dtype, attention))
    return Trunk(model).eval().requires_grad_(False)


def _fill(
    trunk: Trunk,
    architecture: PretrainedConfig,
    weights: Weights,
    device: torch.device,
    reads: dict[str, list[Read]],
    dtype: TeacherType,
) -> None:
    """Read the weights, and move the buffers, which keep their types."""
    prefix = part_names(architecture.model_type).trunk

    def of(name: str, wanted: torch.Tensor) -> list[Read]:
        whole = stored_names(f"{prefix}.{name}", tuple(wanted.shape), architecture.model_type)
        return reads.get(name) or [Read(each) for each in whole]

    if dtype == "fp8":
        fill(trunk.model, weights, of, device, in_float8)
    else:
        fill(trunk.model, weights, of, device)
    trunk.to(device)

"""A trunk split over the tp_group by DeepSpeed, in inference mode."""

import contextlib
import io
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.module_inject.layers import LinearAllreduce, LinearLayer
from torch import nn
from transformers import PretrainedConfig

from taidscale.engine.buffers import check_rope, kept_buffers
from taidscale.engine.private import changed, private
from taidscale.models.families import attention_for
from taidscale.models.load import empty_model
from taidscale.models.weights import WeightFiles, find_weights
from taidscale.parallel.grid import Grid


class Trunk(nn.Module):
    """The model without its head, and without `.device`.

    From that DeepSpeed would conclude that it may allocate uninitialised weights.
    """

    model: Any
    num_parameters: int
    """Of all ranks together, each once."""

    def __init__(self, model: nn.Module, config: PretrainedConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())

    def forward(self, **inputs: Any) -> Any:
        """DeepSpeed wants one; nobody calls it."""
        return self.model(**inputs)


def split_trunk(
    architecture: PretrainedConfig,
    weights: WeightFiles,
    dtype: torch.dtype,
    attention: str,
    grid: Grid,
) -> Trunk:
    """This rank's share of a trunk, with its weights, frozen. All ranks call it together.

    Args:
        architecture: of the model.
        weights: its files.
        dtype: of the parameters; buffers stay float32.
        attention: implementation that is wanted; see `attention_for`.
        grid: whose tp_group it is split over.

    Raises:
        ValueError: if weights are missing or damaged.

    Cost: every rank reads its slices of the weights; DeepSpeed broadcasts a random state.
    """
    trunk = _empty_trunk(architecture, dtype, attention_for(architecture, attention))
    trunk = _shard(trunk, dtype, grid)
    _fill(trunk, weights, dtype, grid.device)
    return trunk


def whole_trunk(
    architecture: PretrainedConfig, folder: Path, dtype: torch.dtype, device: torch.device
) -> Trunk:
    """A trunk unsharded, without DeepSpeed: what a split one is compared with.

    Raises:
        ValueError: if weights are missing or damaged.
    """
    trunk = _empty_trunk(architecture, dtype, attention_for(architecture, "sdpa"))
    _fill(trunk, find_weights(folder, "teacher.model"), dtype, device)
    return trunk.to(device)  # the buffers, which stay float32


def _empty_trunk(architecture: PretrainedConfig, dtype: torch.dtype, attention: str) -> Trunk:
    """Parameters on the meta device, buffers (RoPE frequencies) real."""
    model = empty_model(architecture, dtype, attention)
    return Trunk(model.model, architecture).eval().requires_grad_(False)


class _Mpu:
    """The two questions about model parallelism that DeepSpeed asks during inference."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        return self._grid.tp_group

    def get_model_parallel_rank(self) -> int:
        return self._grid.tp_rank


def _shard(trunk: Trunk, dtype: torch.dtype, grid: Grid) -> Trunk:
    """Replace the linear layers by DeepSpeed's parallel ones.

    What it does besides is undone: it casts the buffers, gives all ranks the random state of
    rank 0, and prints its plan on every rank.
    """
    devices = [grid.device] if grid.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        kept_buffers(trunk, grid.device),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        deepspeed.init_inference(
            trunk,
            # Both: `mpu` alone shards nothing, the group alone is replaced by ranks 0..T-1.
            tensor_parallel={
                "tp_size": grid.tp_size,
                "mpu": _Mpu(grid),
                "tp_group": grid.tp_group,
            },
            dtype=dtype,
            replace_with_kernel_inject=False,
            keep_module_on_host=True,
        )
    parallel = sum(isinstance(module, LinearAllreduce) for module in trunk.modules())
    wanted = 2 * trunk.config.num_hidden_layers if grid.tp_size > 1 else 0
    check_rope(trunk)
    if parallel != wanted:
        raise changed(f"it split {parallel} projections instead of {wanted}")
    return trunk


def _fill(trunk: Trunk, weights: WeightFiles, dtype: torch.dtype, device: torch.device) -> None:
    """Read each parameter's slice and put it where its meta tensor was."""
    for owner, module in trunk.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            full_name = f"{owner}.{name}"
            if isinstance(module, LinearLayer):
                tensor = weights.read(full_name, _own_slice(module), dim=0)
            elif isinstance(module, LinearAllreduce) and name == "weight":
                tensor = weights.read(full_name, _own_slice(module), dim=1)
            else:
                tensor = weights.read(full_name)
            if tensor.shape != parameter.shape:
                raise ValueError(
                    f"{weights.folder}: {full_name} is {tuple(tensor.shape)}, config.json implies "
                    f"{tuple(parameter.shape)}"
                )
            # A copy, in memory of our own: what was read may be a view of the mapped file.
            filled = tensor.to(device, dtype, copy=True, memory_format=torch.contiguous_format)
            setattr(module, name, nn.Parameter(filled, requires_grad=False))
    left = [name for name, parameter in trunk.named_parameters() if parameter.is_meta]
    if left:
        raise ValueError(f"{weights.folder}: no weights were loaded for {left}")


def _own_slice(module: LinearLayer | LinearAllreduce) -> slice:
    sizes, index = private(module, "_partition_sizes"), private(module, "tp_index")
    start = sum(sizes[:index])
    return slice(start, start + sizes[index])

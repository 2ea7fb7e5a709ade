"""The teacher: frozen, in inference mode, split over the tp_group by tensor parallelism.

Shapes: B sequences of S tokens per rank, N = T·B·S tokens of the tp_group, Dt the teacher's
hidden size, V the real vocabulary, v this rank's entries of it.
"""

import contextlib
import io
import logging
import math
import resource
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.module_inject.layers import LinearAllreduce, LinearLayer
from torch import nn
from transformers import PretrainedConfig

from taidscale.config.schema import TeacherConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.buffers import check_rope, kept_buffers
from taidscale.engine.private import changed, private
from taidscale.health.hashes import WeightHasher
from taidscale.losses.inputs import TeacherTokens
from taidscale.losses.vocabulary import Vocabulary
from taidscale.models.families import attention_for, logit_softcap, trunk_inputs
from taidscale.models.load import empty_model
from taidscale.models.student import DTYPES
from taidscale.models.weights import WeightFiles, find_weights
from taidscale.parallel.collectives import all_gather_rows
from taidscale.parallel.grid import Grid

log = logging.getLogger(__name__)


class Teacher:
    """Hidden states of the tp_group's tokens, and this rank's rows of the head.

    Its trunk is split by `deepspeed.init_inference`; its head is ours, because DeepSpeed's
    would all-reduce whole-vocabulary logits. Weights are read slice by slice: no rank ever
    holds more than its share and one tensor.
    """

    def __init__(
        self,
        config: TeacherConfig,
        architecture: PretrainedConfig,
        folder: Path,
        vocabulary: Vocabulary,
        grid: Grid,
    ) -> None:
        """Build it on all ranks together.

        Raises:
            ValueError: if weights are missing or damaged.

        Cost: every rank reads its slices of the weights; DeepSpeed broadcasts a random state.
        """
        weights = find_weights(folder, "teacher.model")
        dtype = DTYPES[config.dtype]
        trunk = _empty_trunk(architecture, dtype, attention_for(architecture, config.attention))
        self.num_parameters = sum(parameter.numel() for parameter in trunk.parameters())
        self._trunk = _shard(trunk, dtype, grid)
        _fill(self._trunk, weights, dtype, grid.device)
        if architecture.tie_word_embeddings:
            self._head_rows = self._trunk.model.embed_tokens.weight[vocabulary.rows]
        else:
            self.num_parameters += architecture.vocab_size * architecture.hidden_size
            rows = weights.read("lm_head.weight", vocabulary.rows)
            self._head_rows = rows.to(grid.device, dtype, copy=True)
        self._softcap = logit_softcap(architecture)
        self._tokens_per_forward = config.tokens_per_forward
        self._group = grid.tp_group
        self._report(grid)

    def __call__(self, batch: MicroBatch) -> TeacherTokens:
        """Hidden states [N, Dt] of all sequences of the tp_group, from this rank's B of them.

        Every rank of the group calls it with equal shapes. No gradient.

        Cost: one all-gather of [T·B, S] ids, and of as many positions where attention stays
        within documents; per layer two all-reduces of the hidden states within the tp_group, in
        slices of `tokens_per_forward` tokens.
        """
        own = [batch.input_ids] if batch.positions is None else [batch.input_ids, batch.positions]
        with torch.inference_mode():
            rows = all_gather_rows(torch.stack(own, dim=1), self._group)  # [T·B, 1 or 2, S]
            slices = rows.split(max(1, self._tokens_per_forward // rows.shape[-1]))  # type: ignore[no-untyped-call]
            hidden = torch.cat([self._hidden(*part.unbind(1)) for part in slices])
        return TeacherTokens(hidden, self._head_rows, self._softcap)

    def weight_hashes(self) -> dict[str, int]:
        """Hashes of this rank's share; they never change, and are those of its other copies."""
        named = [*self._trunk.named_parameters(), *self._trunk.named_buffers()]
        hasher = WeightHasher(self._head_rows.device)
        return hasher.hashes([*named, ("head rows", self._head_rows)])

    def buffers(self) -> dict[str, torch.Tensor]:
        """Of its trunk, by name: RoPE frequencies."""
        return dict(self._trunk.named_buffers())

    def _hidden(
        self, input_ids: torch.Tensor, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        attention = self._trunk.model.config._attn_implementation
        output = self._trunk(**trunk_inputs(input_ids, positions, attention))
        hidden: torch.Tensor = output.last_hidden_state.flatten(0, 1)
        return hidden

    def _report(self, grid: Grid) -> None:
        """Say what each rank holds, and the most that it held so far.

        Cost: one all-gather of two numbers per rank.
        """
        tensors = [*self._trunk.parameters(), self._head_rows]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        ranks = grid.gather((sum(storages.values()) / 2**30, peak))
        held, peaks = zip(*ranks, strict=True)
        log.info(
            "teacher: %.2f to %.2f GiB of weights on each rank; peak resident memory of the "
            "ranks so far %.2f to %.2f GiB",
            *(min(held), max(held), min(peaks), max(peaks)),
        )


def whole_trunk(
    architecture: PretrainedConfig, folder: Path, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """The trunk unsharded, without DeepSpeed: what a split one is compared with.

    Raises:
        ValueError: if weights are missing or damaged.
    """
    trunk = _empty_trunk(architecture, dtype, attention_for(architecture, "sdpa"))
    _fill(trunk, find_weights(folder, "teacher.model"), dtype, device)
    return trunk.to(device)  # the buffers, which stay float32


def warn_of_uneven_heads(architecture: PretrainedConfig, tp_size: int) -> None:
    """Say what it costs where key-value heads do not divide over the ranks.

    DeepSpeed splits them all the same, by whole heads: some ranks get one more than others, and
    with more ranks than heads some get none.
    """
    kv_heads = architecture.num_key_value_heads
    if kv_heads % tp_size:
        slowdown = math.ceil(kv_heads / tp_size) * tp_size / kv_heads
        log.warning(
            "teacher.tp_size: %d key-value heads do not divide over %d ranks; the ranks with one "
            "more make its attention %.2f times as slow and large as an even split",
            kv_heads,
            tp_size,
            slowdown,
        )


class _Trunk(nn.Module):
    """The model without its head, and without `.device`, from which DeepSpeed would conclude
    that it may allocate uninitialised weights.
    """

    model: Any

    def __init__(self, model: nn.Module, config: PretrainedConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)


def _empty_trunk(architecture: PretrainedConfig, dtype: torch.dtype, attention: str) -> _Trunk:
    """Parameters on the meta device, buffers (RoPE frequencies) real."""
    model = empty_model(architecture, dtype, attention)
    return _Trunk(model.model, architecture).eval().requires_grad_(False)


class _Mpu:
    """The two questions about model parallelism that DeepSpeed asks during inference."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        return self._grid.tp_group

    def get_model_parallel_rank(self) -> int:
        return self._grid.tp_rank


def _shard(trunk: _Trunk, dtype: torch.dtype, grid: Grid) -> _Trunk:
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


def _fill(trunk: _Trunk, weights: WeightFiles, dtype: torch.dtype, device: torch.device) -> None:
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

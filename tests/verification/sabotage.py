"""Builds that compute wrong, each in a way that published code did."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from taidscale.engine.student import Student
from taidscale.losses import chunk_loop, fused_head
from taidscale.parallel.collectives import Gathering
from taidscale.schedules import progress
from taidscale.teachers import trunk


def gradient_times_tp_size(patch: pytest.MonkeyPatch) -> None:
    right = fused_head.reduce_scatter_rows

    def summed_once_more(partial: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        return right(partial, group) * dist.get_world_size(group)

    patch.setattr(fused_head, "reduce_scatter_rows", summed_once_more)


def dropped_cross_shard_term(patch: pytest.MonkeyPatch) -> None:
    """Each rank normalises over its own columns."""

    def own_alone(local: torch.Tensor, group: dist.ProcessGroup) -> Gathering:
        return Gathering(local[None], local, None)

    patch.setattr(chunk_loop, "start_all_gather", own_alone)


def t_differs_by_rank(patch: pytest.MonkeyPatch) -> None:
    right = progress.advance_t

    def from_own_loss(*args: Any, **kwargs: Any) -> Any:
        state = right(*args, **kwargs)
        return replace(state, t=state.t + 1e-6 * dist.get_rank())

    patch.setattr(progress, "advance_t", from_own_loss)


def bf16_rope(patch: pytest.MonkeyPatch) -> None:
    right = trunk.divide

    def casting(model: Any, *args: Any) -> Any:
        reads = right(model, *args)
        for buffer in model.buffers():
            buffer.data = buffer.data.bfloat16()
        return reads

    patch.setattr(trunk, "divide", casting)


def load_that_forgets(patch: pytest.MonkeyPatch) -> None:
    """The weights come back, Adam's moments do not."""
    right = Student.load

    def load(self: Student, *args: Any) -> None:
        right(self, *args)
        for state in self._engine.optimizer.optimizer.state.values():
            state["exp_avg"].zero_()

    patch.setattr(Student, "load", load)

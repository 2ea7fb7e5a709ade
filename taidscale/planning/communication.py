"""Bytes that a rank exchanges in an optimizer step, by purpose and link.

Rings are assumed: an all-gather or reduce-scatter of M bytes over W ranks moves M·(W - 1)/W
through each rank, an all-reduce twice that. A ring over several nodes enters each node once: the
adapters of its ranks share what comes in. Shapes as in `workload`.
"""

from dataclasses import dataclass

from taidscale.planning.gpus import Gpu
from taidscale.planning.workload import ITEM_BYTES, Workload

_MOMENTS = 15
"""Float32 sums a token that `losses.fused_head` gathers, at most."""


@dataclass(frozen=True)
class Traffic:
    """One purpose."""

    purpose: str
    inside: float
    """Bytes a rank and optimizer step over the links inside the node."""
    across: float
    """Bytes a rank and optimizer step over its network adapter."""
    collectives: int
    """How many, each of which waits for its slowest rank."""
    ranks: int
    """That take part in one."""
    hides: bool
    """Whether the student's computation goes on meanwhile."""

    def seconds(self, gpu: Gpu, efficiency: float, hop_seconds: float) -> float:
        """How long the links are busy: the slower kind of them, and the hops of the rings."""
        busy = max(self.inside / gpu.nvlink, self.across / gpu.network) / efficiency
        return busy + self.collectives * (self.ranks - 1) * hop_seconds


def traffic(load: Workload) -> list[Traffic]:
    """Of an optimizer step."""
    return [*_in_group(load), *_in_world(load)]


def _in_group(load: Workload) -> list[Traffic]:
    ranks, steps, config = load.tp_size, load.grad_accum_steps, load.config
    if ranks == 1:
        return []
    once = (ranks - 1) / ranks * steps
    found = []
    if load.learns_from_teacher and load.teacher is not None and config.teacher is not None:
        hidden = load.group_tokens * load.teacher.hidden_size * load.teacher_bytes
        reduces = 2 * load.teacher.num_layers
        per_slice = max(1, config.teacher.tokens_per_forward // config.seq_len) * config.seq_len
        slices = -(-load.group_tokens // per_slice)
        number = reduces * slices * steps
        found.append(
            Traffic("teacher's layers", 2 * reduces * hidden * once, 0, number, ranks, False)
        )
    elements = load.group_tokens * load.student.hidden_size
    exchange = elements * (load.student_bytes + 4) * once
    found.append(Traffic("student's hidden states", exchange, 0, 2 * steps, ranks, False))
    sums = 4 * _MOMENTS * load.group_tokens * ranks * once
    chunks = -(-load.group_tokens // load.chunk_tokens) * steps
    found.append(Traffic("sums of the loss", sums, 0, chunks, ranks, load.logit_buffers > 1))
    return found


def _in_world(load: Workload) -> list[Traffic]:
    ranks, zero, model = load.world_size, load.config.zero, load.student
    if ranks == 1:
        return []
    weights = model.num_parameters * load.student_bytes
    gradients = model.num_parameters * ITEM_BYTES[zero.reduce_dtype]
    steps, layers = load.grad_accum_steps, model.num_layers + 2
    match zero.stage:
        case 3:
            return [
                _ring(load, "ZeRO's weights", 2 * weights * steps, 2 * layers * steps, True),
                _ring(load, "ZeRO's gradients", gradients * steps, layers * steps, True),
            ]
        case 2:
            return [
                _ring(load, "ZeRO's gradients", gradients * steps, layers * steps, False),
                _ring(load, "ZeRO's weights", weights, 1, False),
            ]
        case 1:
            return [
                _ring(load, "ZeRO's gradients", gradients, layers, False),
                _ring(load, "ZeRO's weights", weights, 1, False),
            ]
        case 0:
            return [_ring(load, "gradients", 2 * gradients, layers, False)]


def _ring(load: Workload, purpose: str, size: float, collectives: int, hides: bool) -> Traffic:
    ranks, nodes = load.world_size, load.num_nodes
    per_node = min(ranks, load.ranks_per_node)
    across = size * (nodes - 1) / nodes / per_node
    return Traffic(purpose, size * (ranks - 1) / ranks, across, collectives, ranks, hides)

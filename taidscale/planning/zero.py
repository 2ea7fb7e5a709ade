"""What DeepSpeed holds of the student on one rank, by ZeRO stage, as version 0.19 does it.

Shapes: P parameters, W ranks.
"""

import math
from dataclasses import dataclass

from taidscale.models.layer_parts import LayerShape
from taidscale.models.shape import ModelShape
from taidscale.planning.workload import ITEM_BYTES, Workload

BUCKET = 500_000_000
"""Elements of DeepSpeed's `reduce_bucket_size`, which runs leave as it is."""
PREFETCH = 50_000_000
"""Elements of `stage3_prefetch_bucket_size`."""
REUSE_DISTANCE = 1_000_000_000
"""Elements of `stage3_max_reuse_distance`.

A parameter that is used again before so many others have been is not released.
"""
PERSISTENT = 100_000
"""`stage3_param_persistence_threshold`: smaller parameters stay whole on every rank."""


@dataclass(frozen=True)
class ZeroState:
    """Bytes of one rank that stay from step to step; on the GPU but for `host`."""

    parameters: int
    gradients: int
    optimizer: int
    small_parameters: int
    """Whole copies that ZeRO-3 never releases, but during the update."""
    bucket: int
    """Of gradients on their way, always."""
    host: int


def tensor_sizes(model: ModelShape) -> list[int]:
    """Elements of each parameter."""
    ends = [model.head_parameters] * (1 if model.tied else 2) + [p.size for p in model.ends]
    layers = [
        size
        for layer, number in model.layers
        for size in [p.size for p in layer.parameters for _ in range(p.copies)] * number
    ]
    return layers + ends


def zero_state(load: Workload) -> ZeroState:
    """What stays."""
    zero, model, ranks = load.config.zero, load.student, load.world_size
    item, total = load.student_bytes, load.student.num_parameters
    small = bucket = 0
    if zero.stage == 0:
        return ZeroState(item * total, 0, 8 * total, 0, 0, 0)
    own = -(-total // ranks)
    parameters, gradients, optimizer = item * total, 0, 12 * own  # masters and two moments
    if zero.stage == 1 and item < 4:
        gradients = 4 * total  # sums over micro-batches
    if zero.stage == 3:
        sizes = tensor_sizes(model)
        own = sum(-(-size // ranks) for size in sizes)
        parameters, gradients, optimizer = item * own, 4 * own, 12 * own
        if ranks > 1:
            small = item * sum(size for size in sizes if size <= PERSISTENT)
        bucket = BUCKET * ITEM_BYTES[zero.reduce_dtype]
    if not zero.offload_optimizer:
        return ZeroState(parameters, gradients, optimizer, small, bucket, 0)
    if zero.stage == 3:  # the partition of the gradients, and what the update reads, are there
        return ZeroState(parameters, 0, 0, small, bucket, optimizer + 2 * gradients)
    return ZeroState(parameters, gradients, 0, small, bucket, optimizer + 4 * own)


@dataclass(frozen=True)
class Gathered:
    """Bytes of whole parameters, beyond `small_parameters`, that ZeRO-3 holds for a while."""

    kept: int
    """From forward to backward, because they are used again soon."""
    in_trunk: int
    """On their way at once, at most: what was prefetched together stays until all of it is used."""
    in_head: int
    """The same, where the head's weight comes with what was prefetched before it."""


def gathered(load: Workload) -> Gathered:
    """What ZeRO-3 gathers; nothing in other stages."""
    if load.config.zero.stage < 3 or load.world_size == 1:
        return Gathered(0, 0, 0)
    model = load.student
    layer = max(_released(layer) for layer, _ in model.layers)
    head = model.head_parameters if model.head_parameters > PERSISTENT else 0
    trunk = model.trunk_parameters
    # After forward, a layer waits for those above it, for the head twice, and for their backward,
    # which with checkpointing visits each twice.
    visits = 3 if load.config.student.gradient_checkpointing else 2
    above = max(0, REUSE_DISTANCE - 2 * head) / (visits * model.layer_parameters)
    kept = min(model.num_layers, math.ceil(above)) * layer + head
    if not model.tied and visits * trunk + 2 * head < REUSE_DISTANCE:
        kept += head  # the embedding
    everything = model.num_layers * layer + head * (1 if model.tied else 2)
    together = load.student_bytes * min(everything, PREFETCH + max(head, layer))
    if everything == head:
        together = 0  # a parameter that comes alone is not copied
    fetched_for_head = not model.tied or trunk >= REUSE_DISTANCE
    return Gathered(load.student_bytes * kept, together, together if fetched_for_head else 0)


def _released(layer: LayerShape) -> int:
    """Elements of a layer that do not stay whole."""
    return sum(p.size * p.copies for p in layer.parameters if p.size > PERSISTENT)


def reduction(load: Workload) -> int:
    """Bytes that exist while the gradients of a bucket are summed, beyond what stays."""
    zero, item = load.config.zero, load.student_bytes
    total = load.student.num_parameters
    part = min(total, max(BUCKET, load.student.head_parameters))  # nor is a parameter split
    own = 4 * -(-total // load.world_size)
    wide = ITEM_BYTES[zero.reduce_dtype]
    head = item * load.student.head_parameters
    match zero.stage:
        case 0:
            return 4 * total + 4 * part
        case 1:
            copy = wide * part if item < 4 else 2 * head
            return item * total + copy
        case 2:
            copy = wide * part + (own if wide > item else 0) if item < 4 else 0
            return item * part + copy
        case 3:
            # Sorted by rank in one copy, in float32; gloo copies it once more.
            copies = 1 if load.cuda else 2
            return copies * wide * part + head if load.world_size > 1 else item * part + head


def passing_bucket(load: Workload) -> int:
    """Bytes of the bucket that stage 2 makes for each backward."""
    return load.student_bytes * BUCKET if load.config.zero.stage == 2 else 0


def update(load: Workload) -> int:
    """Bytes that exist during the optimizer's update, beyond what stays."""
    zero, item = load.config.zero, load.student_bytes
    total = load.student.num_parameters
    own = 4 * -(-total // load.world_size)
    # torch's AdamW makes two temporaries; on a GPU it is fused.
    temporaries = 0 if load.cuda or zero.offload_optimizer else 2 * own
    match zero.stage:
        case 0:
            return 4 * total + (0 if load.cuda else 8 * load.student.head_parameters)
        case 1:
            return item * total + temporaries + (0 if item < 4 else own)
        case 2:
            return own + temporaries + (0 if item < 4 else own)
        case 3:
            return 0 if zero.offload_optimizer else own + temporaries


def unreduced(load: Workload) -> int:
    """Bytes of gradients that wait from one micro-batch of a step for the next."""
    if load.grad_accum_steps == 1:
        return 0
    total, own = load.student.num_parameters, -(-load.student.num_parameters // load.world_size)
    match load.config.zero.stage:
        case 0 | 1:
            return load.student_bytes * total
        case 2:
            return 4 * own
        case 3:
            return 0

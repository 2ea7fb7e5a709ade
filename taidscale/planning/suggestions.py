"""Which T, micro-batch and chunk to choose, and the nearest settings that fit."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from taidscale.config.load import ConfigError, check_world
from taidscale.config.schema import RunConfig
from taidscale.planning.duration import duration
from taidscale.planning.gpus import GIB, Gpu
from taidscale.planning.memory import memory
from taidscale.planning.workload import Workload

COMPUTE_BOUND = 1024
"""Tokens of a chunk from which on a GPU's products wait for arithmetic, not for memory.

It is well above the 300 or so FLOP that an H100 or B200 does in the time of a byte.
"""


HEADROOM = 0.1
"""Share of a GPU's memory that a suggestion leaves to what was not planned."""


@dataclass(frozen=True)
class Suggestion:
    """A setting, and why."""

    setting: str
    value: str
    why: str


def with_settings(load: Workload, settings: dict[str, Any]) -> Workload | None:
    """The same run with other settings, by dotted name; None where they do not go together."""
    content = load.config.model_dump(mode="json")
    for dotted, value in settings.items():
        *sections, name = dotted.split(".")
        here = content
        for section in sections:
            here = here[section]
        here[name] = value
    changed = replace(load, config=RunConfig.model_validate(content))
    try:
        check_world(changed.config, load.world_size, min(load.world_size, load.ranks_per_node))
    except ConfigError:
        return None
    return changed


def fits(load: Workload, gpu: Gpu) -> bool:
    """Whether its peak and the margin are within the GPU's memory."""
    return memory(load).needed <= gpu.memory


def leaves_room(load: Workload, gpu: Gpu) -> bool:
    """Whether it fits with `HEADROOM`."""
    return memory(load).needed <= gpu.memory * (1 - HEADROOM)


def nearest_that_fits(load: Workload, gpu: Gpu) -> dict[str, Any] | None:
    """The fewest and mildest changes with which the run fits; None if none of them do.

    In this order: gradient checkpointing, smaller micro-batches, less memory for logits, slices of
    one sequence, larger T, ZeRO-3, the optimizer on the host, shorter sequences.
    """
    choices = list(_milder_first(load))
    for number in range(1, len(choices) + 1):
        for together in itertools.combinations(choices, number):
            for values in itertools.product(*(options for _, options in together)):
                names = (name for name, _ in together)
                settings = dict(zip(names, values, strict=True))
                changed = with_settings(load, settings)
                if changed is not None and fits(changed, gpu):
                    return settings
    return None


def _milder_first(load: Workload) -> Iterator[tuple[str, list[Any]]]:
    """Settings that save memory, each with values that go ever further."""
    config = load.config
    if not config.student.gradient_checkpointing:
        yield "student.gradient_checkpointing", [True]
    if sizes := _halves(config.micro_batch_size, 1):
        yield "micro_batch_size", sizes
    if config.loss.chunk_tokens is None and config.loss.logits_mib > 256:
        yield "loss.logits_mib", [256]
    if config.teacher is not None:
        if config.teacher.tokens_per_forward > config.seq_len:
            yield "teacher.tokens_per_forward", [config.seq_len]
        if larger := [t for t in tp_sizes(load) if t > load.tp_size]:
            yield "teacher.tp_size", larger
    if config.zero.stage < 3:
        yield "zero.stage", [3]
    if not config.zero.offload_optimizer and config.zero.stage:
        yield "zero.offload_optimizer", [True]
    if sizes := _halves(config.seq_len, 512):
        yield "seq_len", sizes


def fastest(load: Workload, gpu: Gpu) -> Workload | None:
    """The run with the shortest step that leaves `HEADROOM`; None where nothing does.

    T, micro-batch and gradient checkpointing may differ from those of `load`.
    """
    with_room = [candidate for candidate in _candidates(load) if leaves_room(candidate, gpu)]
    return min(with_room, key=lambda one: duration(one, gpu).step_seconds, default=None)


def suggest(load: Workload, gpu: Gpu) -> list[Suggestion]:
    """T, micro-batch, gradient checkpointing and chunk of the `fastest`, if there is one."""
    best = fastest(load, gpu)
    if best is None:
        return []
    needed = memory(best).needed / GIB
    config = best.config
    found: list[Suggestion] = []
    if best.teacher is not None:
        found.append(Suggestion("teacher.tp_size", str(best.tp_size), _why_tp_size(best, gpu)))
    accumulation = best.grad_accum_steps
    found += [
        Suggestion(
            "micro_batch_size",
            str(config.micro_batch_size),
            f"{accumulation} micro-batch{'es' if accumulation > 1 else ''} a step; "
            f"{needed:,.0f} of {gpu.memory / GIB:,.0f} GiB",
        ),
        Suggestion(
            "student.gradient_checkpointing",
            str(config.student.gradient_checkpointing).lower(),
            "without, activations leave too little room, or force smaller micro-batches"
            if config.student.gradient_checkpointing
            else "activations fit, and computing them again takes time",
        ),
    ]
    return [*found, _chunk(best)]


def _why_tp_size(load: Workload, gpu: Gpu) -> str:
    smaller = [size for size in tp_sizes(load) if size < load.tp_size]
    if not smaller:
        return "the smallest: its layers' all-reduces cost more with every rank"
    other = with_settings(load, {"teacher.tp_size": smaller[-1]})
    if other is None or leaves_room(other, gpu):
        return f"faster than {smaller[-1]} here"
    return (
        f"{smaller[-1]} needs {memory(other).needed / GIB:,.0f} of {gpu.memory / GIB:,.0f} GiB, "
        f"and {HEADROOM:.0%} shall stay free; a larger one talks more"
    )


def _chunk(load: Workload) -> Suggestion:
    enough, fixed = min(COMPUTE_BOUND, load.group_tokens), load.config.loss.chunk_tokens
    if fixed is not None:
        why = f"from {enough:,} tokens on, a chunk keeps the GPU's arithmetic busy"
        return Suggestion("loss.chunk_tokens", str(max(fixed, enough)), why)
    if load.chunk_tokens >= enough:
        mib = load.config.loss.logits_mib
        why = f"{load.chunk_tokens:,} tokens a chunk are enough to keep the GPU's arithmetic busy"
        return Suggestion("loss.logits_mib", str(mib), why)
    mib = -(-load.logits_bytes * enough // load.chunk_tokens // 2**20)
    why = f"chunks of {load.chunk_tokens:,} tokens read the heads too often; {enough:,} do not"
    return Suggestion("loss.logits_mib", str(mib), why)


def _candidates(load: Workload) -> Iterator[Workload]:
    own = load.config.global_batch_size // load.world_size
    sizes = [size for size in range(1, min(own, 64) + 1) if own % size == 0]
    for tp_size, size, again in itertools.product(tp_sizes(load), sizes, (False, True)):
        settings: dict[str, Any] = {"micro_batch_size": size}
        settings["student.gradient_checkpointing"] = again
        if load.teacher is not None:
            settings["teacher.tp_size"] = tp_size
        if changed := with_settings(load, settings):
            yield changed


def tp_sizes(load: Workload) -> list[int]:
    """That divide a node's ranks and split key-value heads evenly, and the configured one."""
    if load.teacher is None:
        return [1]
    ranks, heads = min(load.world_size, load.ranks_per_node), load.teacher.num_kv_heads
    even = {t for t in range(1, ranks + 1) if ranks % t == 0 and heads % t == 0}
    return sorted(even | {load.tp_size})


def _halves(value: int, least: int) -> list[int]:
    found: list[int] = []
    while value // 2 >= least:
        value //= 2
        found.append(value)
    return found

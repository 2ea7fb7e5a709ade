"""The least memory that a run can do with, and where that is to be had."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from taidscale.planning import teacher
from taidscale.planning.gpus import GIB, GPUS, Gpu
from taidscale.planning.memory import memory
from taidscale.planning.scaling import on_ranks
from taidscale.planning.suggestions import fits, tp_sizes, with_settings
from taidscale.planning.workload import Workload

MOST_GPUS = 1024
"""That a refusal looks at."""


def ever_smaller(load: Workload) -> Iterator[Workload]:
    """The run, and it with settings that cost ever more time and spare memory."""
    smaller: dict[str, Any] = {}
    yield load
    for more in (
        {"teacher.tokens_per_forward": load.config.seq_len, "loss.logits_mib": 256},
        {"zero.offload_optimizer": True},
    ):
        if load.teacher is None:
            more = {name: value for name, value in more.items() if "teacher" not in name}
        smaller |= more
        if (changed := with_settings(load, smaller)) is not None:
            yield changed


def smallest(load: Workload) -> Workload:
    """With every setting that spares memory, and the T that spares the most."""
    *_, load = ever_smaller(load)
    least: dict[str, Any] = {"micro_batch_size": 1, "student.gradient_checkpointing": True}
    least["zero.stage"] = 3
    sizes = [{"teacher.tp_size": size} for size in tp_sizes(load)] if load.teacher else [{}]
    found = (with_settings(load, least | size) for size in sizes)
    return min((one for one in found if one is not None), key=lambda one: memory(one).needed)


def least_need(best: Workload, gpu: Gpu, spare: str = "") -> str:
    """What a GPU needs at least, and what for.

    Args:
        best: the `smallest`.
        gpu: on which it does not fit.
        spare: what is said of memory that shall stay free.
    """
    peak = memory(best).peak
    part = max(peak.parts, key=lambda name: peak.parts[name])
    split = f"teacher.tp_size {best.tp_size}, " if best.teacher is not None else ""
    return (
        f"with {split}one sequence of {best.config.seq_len:,} tokens a rank, gradient "
        f"checkpointing and the optimizer on the host, a GPU needs "
        f"{memory(best).needed / GIB:,.0f} of {gpu.memory / GIB:,.0f} GiB{spare}; the most is its "
        f"{part}, {peak.parts[part] / GIB:,.0f} GiB"
    )


def refusal(load: Workload, gpu: Gpu) -> str:
    """Why no settings make a run fit, and what would."""
    best = smallest(load)
    why = f"nothing that can be set makes it fit: {least_need(best, gpu)}"
    if best.teacher is not None and teacher.shard(best) > gpu.memory:
        why += (
            f" of a teacher of {best.teacher.num_parameters / 1e9:,.1f} B parameters, of which "
            "each node holds a whole copy, so that more nodes do not help"
        )
    larger = [f"--gpu {name}" for name, other in GPUS.items() if fits(best, other)]
    numbers = (load.world_size * 2**power for power in range(1, 10))
    more = [f"--gpus {n}" for n in numbers if n <= MOST_GPUS and _fits_on(best, n, gpu)]
    would = " or ".join([*more[:1], *larger])
    return f"{why}; it would fit with {would}" if would else f"{why}; no GPU that is known would do"


def _fits_on(best: Workload, num_gpus: int, gpu: Gpu) -> bool:
    """Whether a run does on more GPUs, whose nodes may hold more ranks of a teacher."""
    load, _ = on_ranks(best, num_gpus)
    named = load.config.teacher
    if named is None:
        return fits(load, gpu)
    teachers = (named.model_copy(update={"tp_size": size}) for size in tp_sizes(load))
    configs = (load.config.model_copy(update={"teacher": teacher}) for teacher in teachers)
    return any(fits(replace(load, config=config), gpu) for config in configs)

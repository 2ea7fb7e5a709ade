"""What `taidscale plan` does: it computes the needs of a run on given GPUs, and prints them."""

import sys
from argparse import Namespace
from dataclasses import replace

from taidscale.config.schema import RunConfig
from taidscale.planning import tables
from taidscale.planning.disk import disk
from taidscale.planning.duration import duration
from taidscale.planning.gpus import GB, GIB, TERA, Gpu, find_gpu
from taidscale.planning.least import refusal
from taidscale.planning.measured import read_measured
from taidscale.planning.memory import memory
from taidscale.planning.scaling import scaling
from taidscale.planning.shapes import run_shapes
from taidscale.planning.suggestions import nearest_that_fits, suggest
from taidscale.planning.workload import Workload

DOES_NOT_FIT = 1


def plan(config: RunConfig, options: Namespace) -> int:
    """Print it; the exit status."""
    gpu = read_gpu(options)
    load = Workload(config, *run_shapes(config), options.gpus, options.gpus_per_node)

    factor, basis = calibration(options, load, gpu)
    needs, lasts = memory(load), duration(load, gpu, factor=factor)
    suggested = suggest(load, gpu)
    for lines in (
        tables.overview(load, gpu),
        tables.memory_table(needs, gpu),
        tables.time_table(load, lasts, gpu),
        tables.disk_table(load, disk(load)),
        tables.suggestion_table(load, suggested) if suggested else [],
        tables.scaling_table(scaling(load, gpu, factor), gpu),
        tables.assumptions(load, gpu, basis),
    ):
        if lines:
            print("\n".join(lines), end="\n\n")
    if needs.needed <= gpu.memory:
        return 0
    nearest = nearest_that_fits(load, gpu)
    if nearest is None:
        remedy = refusal(load, gpu)
    else:
        settings = (f"{k}={str(v).lower() if v is True else v}" for k, v in nearest.items())
        remedy = f"the nearest that fits: {' '.join(settings)}"
    print(f"does not fit on {gpu.name}: {remedy}", file=sys.stderr)
    return DOES_NOT_FIT


def read_gpu(options: Namespace) -> Gpu:
    """The named GPU with the figures that were given; all five make one of any name."""
    given = {
        "flops": (options.gpu_tflops, TERA),
        "memory": (options.gpu_memory, GIB),
        "memory_bandwidth": (options.gpu_bandwidth, TERA),
        "nvlink": (options.gpu_nvlink, GB),
        "network": (options.gpu_network, GB),
    }
    figures = {name: value * unit for name, (value, unit) in given.items() if value is not None}
    wrong = [name for name, value in figures.items() if value <= 0]
    if wrong:
        raise ValueError(f"the GPU's {', '.join(wrong)} must be above 0")
    if len(figures) == len(given):
        return Gpu(options.gpu, **figures)
    return replace(find_gpu(options.gpu), **figures)


def calibration(options: Namespace, load: Workload, gpu: Gpu) -> tuple[float, str | None]:
    """Measured seconds by planned ones, and where the measurement is from."""
    if options.mfu is not None:
        factor = duration(load, gpu).mfu / options.mfu
        return factor, f"an MFU of {options.mfu:.1%} on {load.world_size:,} GPUs, as given"
    if options.measured is None:
        return 1.0, None
    before = read_measured(options.measured, options.gpus_per_node)
    reached = before.mfu(gpu)
    factor = duration(before.load, gpu).mfu / reached
    held, planned = before.peak_memory / GIB, memory(before.load).peak.total / GIB
    return factor, (
        f"{options.measured} reached {before.tokens_per_second:,.0f} tokens/s on "
        f"{before.load.world_size:,} GPUs, an MFU of {reached:.1%} if they were {gpu.name}; "
        f"it held {held:.2f} GiB, {planned:.2f} planned"
    )

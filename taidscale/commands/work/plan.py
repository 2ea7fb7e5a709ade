"""Say what a run needs before it runs: memory, time, traffic and disk, from configurations alone.

python tools/plan.py CONFIG --gpus 64 [--gpu h100-80g] [section.setting=value ...]

No weights and no GPU are needed. The exit status is 1 where the run does not fit, with the nearest
settings that do; 2 for an error of the user.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a bare clone

if TYPE_CHECKING:
    from taidscale.planning.gpus import Gpu
    from taidscale.planning.workload import Workload

DOES_NOT_FIT, USER_ERROR = 1, 2


def parse_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="YAML file of the run")
    parser.add_argument("overrides", nargs="*", help="section.setting=value")
    parser.add_argument("--gpus", type=int, required=True, help="in all")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="default: 8")
    parser.add_argument("--gpu", default="h100-80g", help="by name; a wrong one lists the known")
    parser.add_argument(
        "--mfu", type=float, help="measured share of the GPUs' FLOP/s, such as 0.42"
    )
    parser.add_argument("--measured", type=Path, metavar="RUN_DIR", help="a run's speed, instead")
    own = parser.add_argument_group("figures of the GPU", "instead of those of its name")
    own.add_argument("--gpu-tflops", type=float, help="dense bf16 TFLOP/s")
    own.add_argument("--gpu-memory", type=float, help="GiB")
    own.add_argument("--gpu-bandwidth", type=float, help="TB/s of its memory")
    own.add_argument("--gpu-nvlink", type=float, help="GB/s inside a node, one direction")
    own.add_argument("--gpu-network", type=float, help="GB/s across nodes, one direction")
    return parser.parse_intermixed_args()


def plan(options: argparse.Namespace) -> int:
    """Print it; the exit status."""
    check_numbers(options)
    gpu, load = read_gpu(options), read_load(options)

    from taidscale.planning import tables
    from taidscale.planning.disk import disk
    from taidscale.planning.duration import duration
    from taidscale.planning.memory import memory
    from taidscale.planning.scaling import scaling
    from taidscale.planning.suggestions import nearest_that_fits, suggest

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
        tables.assumptions(gpu, basis),
    ):
        if lines:
            print("\n".join(lines), end="\n\n")
    if needs.needed <= gpu.memory:
        return 0
    nearest = nearest_that_fits(load, gpu)
    remedy = "nothing that can be set makes it fit; take GPUs with more memory, or more of them"
    if nearest is not None:
        settings = (f"{k}={str(v).lower() if v is True else v}" for k, v in nearest.items())
        remedy = f"the nearest that fits: {' '.join(settings)}"
    print(f"does not fit on {gpu.name}: {remedy}", file=sys.stderr)
    return DOES_NOT_FIT


def check_numbers(options: argparse.Namespace) -> None:
    """Refuse what cannot be, before anything large is imported."""
    gpus, per_node, mfu = options.gpus, options.gpus_per_node, options.mfu
    if gpus < 1 or per_node < 1:
        raise ValueError(f"--gpus {gpus} and --gpus-per-node {per_node} must be above 0")
    if gpus > per_node and gpus % per_node:
        raise ValueError(f"--gpus: {gpus} is not a multiple of the {per_node} GPUs of a node")
    if mfu is not None and options.measured is not None:
        raise ValueError("--mfu and --measured exclude each other")
    if mfu is not None and not 0 < mfu < 1:
        raise ValueError(f"--mfu must be between 0 and 1, such as 0.42 (got {mfu})")


def read_gpu(options: argparse.Namespace) -> "Gpu":
    """The named GPU with the figures that were given; all five make one of any name."""
    from taidscale.planning.gpus import GB, GIB, TERA, Gpu, find_gpu

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


def read_load(options: argparse.Namespace) -> "Workload":
    """The run on the GPUs, checked as a start would check it."""
    from taidscale.config.load import check_world, load_config

    gpus, per_node = options.gpus, options.gpus_per_node
    config = load_config(options.config, options.overrides)
    check_world(config, gpus, min(gpus, per_node))

    from taidscale.planning.shapes import run_shapes
    from taidscale.planning.workload import Workload

    return Workload(config, *run_shapes(config), gpus, per_node)


def calibration(
    options: argparse.Namespace, load: "Workload", gpu: "Gpu"
) -> tuple[float, str | None]:
    """Measured seconds by planned ones, and where the measurement is from."""
    from taidscale.planning.duration import duration
    from taidscale.planning.gpus import GIB
    from taidscale.planning.measured import read_measured
    from taidscale.planning.memory import memory

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


def main() -> int:
    """Run; an error of the user is one line on stderr, with status 2."""
    options = parse_arguments()
    try:
        return plan(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(main())

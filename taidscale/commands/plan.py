"""Say what a run needs before it runs: memory, time, traffic and disk, from configurations alone.

taidscale plan CONFIG --gpus 64 [--gpu h100-80g] [section.setting=value ...]

No weights and no GPU are needed. The exit status is 1 where the run does not fit, with the nearest
settings that do; 2 for an error of the user.
"""

from argparse import Namespace
from pathlib import Path

from taidscale.commands.outcome import fail
from taidscale.commands.parser import run_parser


def parse_arguments(arguments: list[str] | None) -> Namespace:
    """What the command line says."""
    parser = run_parser("plan", __doc__)
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
    return parser.parse_intermixed_args(arguments)


def check_numbers(options: Namespace) -> None:
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


def main(arguments: list[str] | None = None) -> int:
    """Run; an error of the user is one line on stderr, with status 2."""
    options = parse_arguments(arguments)
    from taidscale.config.load import check_world, load_config  # late: --help need not wait

    try:
        check_numbers(options)
        config = load_config(options.config, options.overrides)
        check_world(config, options.gpus, min(options.gpus, options.gpus_per_node))
        from taidscale.commands.work.plan import plan  # later still: torch is dear

        return plan(config, options)
    except (ValueError, OSError) as error:
        return fail(str(error))

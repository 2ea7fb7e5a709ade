"""Look at the nodes of a run, in seconds, before it starts.

torchrun --nnodes 8 ... tools/check_nodes.py CONFIG [section.setting=value ...]

Started on all nodes like the run itself, with the same arguments; `--check` of the scripts in
`launchers/` does that. It compares versions, devices, clocks, memory and the speed of computing, of
all-reduces inside nodes and between neighbours, and of writing to the folder of the checkpoints.
The exit status is 1 where something is wrong, 2 where the command is.
"""

import argparse
import logging
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taidscale.config.schema import RunConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a bare clone

TIMEOUT = timedelta(minutes=2)
"""Of a collective: a node that does not answer is a finding, not something to wait for."""
BYTES_PER_PARAMETER = 16
"""Of a checkpoint at most: weights and two moments in float32, and rounded weights."""


def main() -> int:
    """Measure together; the first rank prints. The exit status is the same on all ranks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="YAML file of the run")
    parser.add_argument("overrides", nargs="*", help="section.setting=value")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # deepspeed adds it
    options = parser.parse_intermixed_args()
    is_first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.ERROR)
    start = time.perf_counter()
    try:
        from taidscale.config.load import check_world, load_config
        from taidscale.engine.runtime import adopt_launcher

        world_size, local_world_size = adopt_launcher()
        config = load_config(options.config, options.overrides)
        check_world(config, world_size, local_world_size)
        needed_bytes = checkpoint_bytes(config)
    except ValueError as error:  # alike on all ranks
        if is_first:
            print(f"error: {error}", file=sys.stderr)
        return 2
    problems = check(config, needed_bytes, start)
    for problem in problems if is_first else ():
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


def check(config: "RunConfig", needed_bytes: int, start: float) -> list[str]:
    """Print the table on the first rank.

    Returns:
        What is wrong, on every rank.
    """
    import torch
    import torch.distributed as dist

    from taidscale.health.node_findings import find_problems, table
    from taidscale.health.nodes import look_at_nodes
    from taidscale.parallel.grid import make_grid
    from taidscale.run_status import CHECKPOINTS_FOLDER

    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        grid = make_grid(1, device)
        reports = look_at_nodes(grid, local_rank, config.run_dir / CHECKPOINTS_FOLDER)
        problems = find_problems(reports, needed_bytes, config.health.slow_rank_ratio)
        if grid.is_first:
            print("\n".join(table(reports)))
            seconds = time.perf_counter() - start
            verdict = f"{len(problems)} problems" if problems else "all is well"
            print(f"{grid.world_size} ranks looked at in {seconds:.1f} s: {verdict}", flush=True)
    finally:
        dist.destroy_process_group()
    return problems


def checkpoint_bytes(config: "RunConfig") -> int:
    """What the checkpoints that the run keeps will take, and one that is being written."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    from taidscale.models.student import student_config

    with init_empty_weights():
        student = AutoModelForCausalLM.from_config(student_config(config))
    return student.num_parameters() * BYTES_PER_PARAMETER * (config.checkpoint.keep_last + 1)


if __name__ == "__main__":
    sys.exit(main())

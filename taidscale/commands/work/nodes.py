"""What `taidscale nodes` does: the ranks measure together, the first one prints."""

import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM

from taidscale.commands.outcome import USER_ERROR, fail
from taidscale.config.load import check_world
from taidscale.config.schema import RunConfig
from taidscale.engine.runtime import adopt_launcher
from taidscale.file_names import CHECKPOINTS_FOLDER
from taidscale.health.node_findings import find_problems, table
from taidscale.health.nodes import look_at_nodes
from taidscale.models.student import student_config
from taidscale.parallel.grid import make_grid

TIMEOUT = timedelta(minutes=2)
"""Of a collective: a node that does not answer is a finding, not something to wait for."""
BYTES_PER_PARAMETER = 16
"""Of a checkpoint at most: weights and two moments in float32, and rounded weights."""


def check_nodes(config: RunConfig) -> int:
    """Measure together; the exit status, the same on all ranks."""
    start = time.perf_counter()
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        check_world(config, *adopt_launcher())
        needed_bytes = checkpoint_bytes(config)
    except ValueError as error:  # alike on all ranks
        return fail(str(error)) if is_first else USER_ERROR
    problems = check(config, needed_bytes, start)
    for problem in problems if is_first else ():
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


def check(config: RunConfig, needed_bytes: int, start: float) -> list[str]:
    """Print the table on the first rank.

    Returns:
        What is wrong, on every rank.
    """
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


def checkpoint_bytes(config: RunConfig) -> int:
    """What the checkpoints that the run keeps will take, and one that is being written."""
    with init_empty_weights():
        student = AutoModelForCausalLM.from_config(student_config(config))
    kept = config.checkpoint.keep_last + 1
    return int(student.num_parameters()) * BYTES_PER_PARAMETER * kept

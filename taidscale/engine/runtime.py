"""Starting and ending the ranks of a run."""

import os
import socket
from datetime import timedelta

import deepspeed
import deepspeed.ops
import torch
import torch.distributed as dist
import transformers

from taidscale.engine.private import private
from taidscale.engine.random_state import seed_rank
from taidscale.parallel.grid import Grid, make_grid

STARTUP_TIMEOUT = timedelta(minutes=60)
"""Of a collective; the first ones wait for the slowest rank to read its part of the teacher."""


def adopt_launcher() -> tuple[int, int]:
    """Make the environment complete, whatever started this process; (world, local) sizes.

    torchrun sets all of it; the deepspeed launcher calls LOCAL_WORLD_SIZE LOCAL_SIZE; plain
    `python` sets nothing and becomes a world of one rank.

    Raises:
        ValueError: under a launcher that leaves this process in the dark about the others, or
            with fewer GPUs than ranks; alike on all ranks of a node.
    """
    environ = os.environ
    if "RANK" not in environ and int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise ValueError(
            f"srun started {environ['SLURM_STEP_NUM_TASKS']} tasks without telling them their "
            "ranks; let srun start one torchrun per node instead"
        )
    if "RANK" not in environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        environ.update(alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
    if "LOCAL_SIZE" in environ:
        environ.setdefault("LOCAL_WORLD_SIZE", environ["LOCAL_SIZE"])
    if "LOCAL_WORLD_SIZE" not in environ:
        raise ValueError("LOCAL_WORLD_SIZE is not set: how many ranks does this node have?")
    local_world_size = int(environ["LOCAL_WORLD_SIZE"])
    check_gpus(int(environ.get("LOCAL_RANK", "0")), local_world_size, torch.cuda.device_count())
    return int(environ["WORLD_SIZE"]), local_world_size


def check_gpus(local_rank: int, local_world_size: int, num_visible: int) -> None:
    """Ask whether each rank of this node has a GPU, or none of them.

    Args:
        local_rank: of this process.
        local_world_size: ranks of the node.
        num_visible: GPUs that this process sees.

    Raises:
        ValueError: if there are too few.
    """
    if num_visible and max(local_rank + 1, local_world_size) > num_visible:
        raise ValueError(
            f"there are {local_world_size} ranks on this node and {num_visible} "
            f"GPU{'s' if num_visible > 1 else ''} that they see (CUDA_VISIBLE_DEVICES is "
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}); start one rank for each GPU, "
            "and let every rank see all GPUs of its node"
        )


def start_ranks(tp_size: int, seed: int) -> Grid:
    """Join the process group, form the tp_groups, seed the random number generators.

    Args:
        tp_size: ranks that share a copy of the teacher.
        seed: each rank gets its own, derived from it.
    """
    device = _choose_device()
    _avoid_cpu_kernels()
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        deepspeed.init_distributed(dist_backend=backend, verbose=False, timeout=STARTUP_TIMEOUT)
    elif not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
    grid = make_grid(tp_size, device, STARTUP_TIMEOUT)
    if not grid.is_first:
        transformers.utils.logging.disable_progress_bar()
    seed_rank(seed, grid.rank)
    return grid


def end_ranks() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _choose_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def _avoid_cpu_kernels() -> None:
    """Keep DeepSpeed's shared-memory collectives off.

    On a CPU they are compiled at the first start, for minutes, and reduce over the world
    where a tp_group was asked for. There is no public switch.
    """
    private(deepspeed.ops, "__compatible_ops__", dict)["deepspeed_shm_comm"] = False

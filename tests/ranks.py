"""Run a test on several ranks of a gloo group."""

import contextlib
import functools
import importlib
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import forkserver
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes

# Imported once, in the process that every rank is then forked from: a rank starts in a
# tenth of a second, where a spawned one spends many seconds on importing torch.
# `torch._dynamo` is what `torch.testing.assert_close` imports at its first call.
forkserver.set_forkserver_preload(
    [
        "torch._dynamo",
        "torch._inductor.compile_fx",
        "torch.testing",
        "pytest",
        "deepspeed",
        "hypothesis",
        "transformers",
        "streaming",
    ]
)

COLLECTIVE_TIMEOUT = timedelta(seconds=600)


def on_ranks(world_size: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make `world_size` processes of one node run the decorated test, in one gloo group.

    The test must sit at module level; its parameters and fixtures must pickle.
    The first rank to fail fails the test, with that rank's traceback.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def launch(**params: Any) -> None:
            run_on_ranks(world_size, test.__module__, test.__name__, params)

        return launch

    return decorate


def run_on_ranks(world_size: int, module: str, name: str, params: dict[str, Any]) -> None:
    """Run the function behind `module.name` on every rank; fail the test where one fails."""
    with tempfile.TemporaryDirectory() as folder:
        args = (world_size, f"file://{folder}/store", module, name, params, dict(os.environ))
        try:
            start_processes(run_rank, args, nprocs=world_size, start_method="forkserver")
        except ProcessRaisedException as failure:
            pytest.fail(str(failure), pytrace=False)


def run_rank(
    rank: int,
    world_size: int,
    store: str,
    module: str,
    name: str,
    params: dict[str, Any],
    environment: dict[str, str],
) -> None:
    os.environ |= environment  # the server's is that of the first test
    # As where a launcher has started it: what it starts itself, workers of a loader say, would
    # else each begin with a fork server of their own, which imports everything.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=world_size, timeout=COLLECTIVE_TIMEOUT
    )
    try:
        test = getattr(importlib.import_module(module), name)
        getattr(test, "__wrapped__", test)(**params)
        if dist.is_initialized():
            # Who ends early would close connections that others are still making. A rank that has
            # failed says itself what it was.
            with contextlib.suppress(RuntimeError):
                dist.barrier()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()

"""Stores of small checkpoints, for tests on several ranks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from taidscale.checkpoint.store import CheckpointStore, Put
from taidscale.config.schema import CheckpointConfig
from taidscale.parallel.grid import Grid, make_grid

FACTS: dict[str, Any] = {"progress": {"step": 3, "t": 0.1 + 0.2}, "text": "語"}


def this_grid() -> Grid:
    return make_grid(1, torch.device("cpu"))


def open_store(folder: Path, grid: Grid, **settings: Any) -> CheckpointStore:
    return CheckpointStore(folder, grid, CheckpointConfig(every_steps=1, **settings))


def writer(grid: Grid, content: str = "state") -> Callable[[Path, Put], None]:
    """Writes a file per rank, in a subfolder, and one of the first rank."""

    def write(folder: Path, put: Put) -> None:
        (folder / "shards").mkdir(exist_ok=True)
        put(f"{content} of {grid.rank}", folder / "shards" / f"rank-{grid.rank}.pt")
        if grid.is_first:
            put(content, folder / "model.pt")

    return write


def save(store: CheckpointStore, grid: Grid, *steps: int) -> None:
    for step in steps:
        store.begin(step, writer(grid, f"step {step}"), {**FACTS, "step": step}, num_bytes=100)
    store.publish()
    dist.barrier()


def names(folder: Path) -> list[str]:
    dist.barrier()
    found = sorted(path.name for path in folder.iterdir())
    dist.barrier()
    return found


def flip(path: Path) -> None:
    """Change a bit of a file in its middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def visible(folder: Path) -> list[str]:
    """Without what is just being deleted."""
    return [name for name in names(folder) if not name.endswith(".old.partial")]

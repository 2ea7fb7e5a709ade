"""What an earlier run reached, out of its folder."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taidscale.config.load import load_config
from taidscale.file_names import CONFIG_FILE, EVENTS_FILE, METRICS_FILE
from taidscale.models.flops import flops_per_token
from taidscale.planning.gpus import Gpu
from taidscale.planning.shapes import run_shapes
from taidscale.planning.workload import Workload

STEPS = 100
"""The last so many are looked at."""


@dataclass(frozen=True)
class Measured:
    """A run's speed."""

    load: Workload
    tokens_per_second: float
    """Median of its last steps, over all ranks."""
    peak_memory: float
    """Bytes that its first rank has held at most."""

    def mfu(self, gpu: Gpu) -> float:
        """Model operations by what so many of these GPUs could do."""
        load = self.load
        teacher = load.teacher if load.learns_from_teacher else None
        flops = flops_per_token(load.student, teacher, load.config.seq_len)
        return self.tokens_per_second * flops / (gpu.flops * load.world_size)


def read_measured(run_dir: Path, ranks_per_node: int) -> Measured:
    """Speed and ranks of a run that has trained.

    Raises:
        ValueError: if its folder lacks them, or it ran on CPUs.
    """
    if not (run_dir / CONFIG_FILE).is_file():
        raise ValueError(f"--measured: {run_dir} is not a run's folder: it holds no {CONFIG_FILE}")
    config = load_config(run_dir / CONFIG_FILE)
    steps = _lines(run_dir / METRICS_FILE)[-STEPS:]
    starts = [event for event in _lines(run_dir / EVENTS_FILE) if event["event"] == "start"]
    if not steps or not starts:
        raise ValueError(f"--measured: {run_dir} holds no steps yet")
    ranks, device = starts[-1].get("num_ranks"), starts[-1].get("device")
    if ranks is None:
        raise ValueError(f"--measured: {run_dir} is of an older version, which did not note ranks")
    if device == "CPU":
        raise ValueError(f"--measured: {run_dir} ran on CPUs, which says nothing about GPUs")
    return Measured(
        Workload(config, *run_shapes(config), ranks, ranks_per_node),
        statistics.median(step["tokens_per_second"] for step in steps),
        max(step["peak_memory_gib"] for step in steps) * 2**30,
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    """Those that are whole: a crash may have cut the last one short."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found

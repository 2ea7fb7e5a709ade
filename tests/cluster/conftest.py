"""What the tests on several hosts run."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STEPS = 30


@pytest.fixture(scope="session")
def distillation(tmp_path_factory: pytest.TempPathFactory, material: Path) -> Path:
    """`run.yaml` of 30 steps on 4 ranks, some 10 seconds: a real model of 260 k parameters."""
    from benchmarks.stories import prepare, settings

    folder = tmp_path_factory.mktemp("stories")
    config = settings(prepare(material, folder), folder, STEPS) | {
        "micro_batch_size": 4,
        "evaluation": {"data": str(folder / "valid"), "every_steps": 15, "max_samples": 16},
        "checkpoint": {"every_steps": 10},
        "health": {"slow_rank_ratio": 1000.0},  # the hosts share the cores of one
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def undisturbed(distillation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the run on four ranks of this host, to which nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    done = subprocess.run(
        [ROOT / "launchers" / "torchrun.sh", distillation, f"run_dir={folder / 'run'}"],
        env={**os.environ, "RANKS_PER_NODE": "4", "MASTER_PORT": port},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


def num_steps(run_dir: Path) -> int:
    """Lines of a run's metrics."""
    path = run_dir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0

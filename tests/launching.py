"""Starting runs with the scripts, as a person does."""

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
LAUNCHERS = ROOT / "launchers"


def fill(folder: Path) -> Path:
    (folder / "run.yaml").touch()
    (folder / "hosts").write_text("# two nodes\n\nnode1 slots=8\nnode2 slots=8\n")
    return folder


def run(script: str, *arguments: str | Path, cwd: Path, **environment: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a script that ends at once."""
    inherited = {name: value for name, value in os.environ.items() if "SLURM" not in name}
    done = subprocess.run(
        ["bash", LAUNCHERS / script, *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def port() -> str:
    """A free one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def steps(metrics: Path) -> int:
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def wait_for_step(metrics: Path, step: int, script: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 600
    while steps(metrics) < step:
        assert script.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def end(script: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(script.pid).children(recursive=True):
            process.kill()
        script.kill()

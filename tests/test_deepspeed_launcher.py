"""launchers/deepspeed.sh: which nodes it takes, and whom it asks to end."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from deepspeed.launcher.runner import _parse_hostfile

from taidscale.run.status import RunStatus
from tests.launching import LAUNCHERS, ROOT, end, fill, port, run, wait_for_step
from tests.runs import make_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        "node1 slots=8 # rack 1",
        "node1 slots=8# rack 1",
        "node1 slots=8\r",
        "node1 slots=08",
        "node1 slots=8 max_slots=8",
        "  node1\tslots=8  ",
        "me@node1 slots=8",
    ],
)
def test_hostfile_is_read_as_deepspeed_reads_it(entry: str, folder: Path) -> None:
    """Shown by what it takes and what it refuses; and deepspeed's own reader takes it too."""
    lines = ["# two nodes", "", entry, "node2 slots=4"]
    read = _parse_hostfile(lines)
    assert list(read.values()) == [8, 4]
    (folder / "hosts").write_text("\n".join(lines))  # without a newline at its end
    status, _, errors = run("deepspeed.sh", "--dry-run", "hosts", "run.yaml", cwd=folder)
    assert status == 0, errors
    chosen = {"DEEPSPEED_ARGS": f"--include {next(iter(read))}"}
    assert (
        "@" in entry
        or run("deepspeed.sh", "--dry-run", "hosts", "run.yaml", cwd=folder, **chosen)[0] == 0
    )


def test_deepspeed_asks_its_own_run_to_end(tmp_path: Path) -> None:
    """Whatever the configuration is called, and another run of the same name goes on."""
    config = make_run(
        tmp_path, total_steps=10**6, checkpoint={"every_steps": 10**6 - 1}, evaluation=None
    )
    odd = config.rename(tmp_path / "a+b[1]';touch x;'.yaml")
    (tmp_path / "hosts").write_text("localhost slots=1\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DEEPSPEED_ARGS": f"--no_ssh --node_rank 0 --master_addr 127.0.0.1 --master_port {port()}",
    }
    log = tmp_path / "log"
    with log.open("wb") as out:
        script = subprocess.Popen(
            [LAUNCHERS / "deepspeed.sh", "hosts", odd], env=environment, cwd=tmp_path,
            stdout=out, stderr=out,
        )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    try:
        wait_for_step(metrics, 3, script, log)
        script.send_signal(signal.SIGTERM)
        script.wait(300)
    finally:
        end(script)
    assert "asked: " in log.read_text(), log.read_text()
    status = RunStatus.read(tmp_path / "run")
    assert status is not None
    assert (status.state, status.message[:9]) == ("interrupted", "asked by "), log.read_text()
    assert not (tmp_path / "x").exists()

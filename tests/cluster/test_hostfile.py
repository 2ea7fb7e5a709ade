"""A run over two hosts with `deepspeed --hostfile`, pdsh and sshd, as users start it."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from taidscale.run.status import RunStatus
from tests.cluster.conftest import ROOT, STEPS, num_steps
from tests.cluster.hosts import Host, missing, wait_for
from tests.cluster.ssh import PROGRAMS, ssh_hosts
from tests.runs import read_lines

pytestmark = pytest.mark.cluster


@pytest.fixture
def two_hosts(tmp_path: Path) -> Iterator[dict[str, Host]]:
    if reason := missing(*PROGRAMS, "pdsh"):
        pytest.skip(reason)
    with ssh_hosts(tmp_path, "node1", "node2") as made:
        yield made


def test_two_hosts_train_like_one(
    two_hosts: dict[str, Host], undisturbed: Path, distillation: Path, tmp_path: Path
) -> None:
    """Looked at first, asked to stop on the way, and started again."""
    (tmp_path / "hosts").write_text("node1 slots=2\nnode2 slots=2\n")
    # Another number of threads adds numbers up in another order.
    (tmp_path / ".deepspeed_env").write_text("OMP_NUM_THREADS=1\n")
    run_dir = tmp_path / "run"

    def start(*options: str) -> "subprocess.Popen[bytes]":
        return two_hosts["node1"].start(
            *(ROOT / "launchers" / "deepspeed.sh", *options, tmp_path / "hosts", distillation),
            f"run_dir={run_dir}",
            log=tmp_path / "log.txt",
            cwd=tmp_path,
        )

    first = start("--check")
    wait_for("step 8", lambda: num_steps(run_dir) >= 8 or first.poll() is not None, 300)
    log = (tmp_path / "log.txt").read_text
    assert first.poll() is None, log()
    assert "4 ranks looked at" in log()
    first.send_signal(signal.SIGTERM)
    assert first.wait(120) != 0, log()
    assert 8 <= num_steps(run_dir) < STEPS
    assert "asked by" in log()
    assert start().wait(300) == 0, log()
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert read_lines(run_dir / name) == read_lines(undisturbed / name), name


@pytest.mark.parametrize("chosen", ["--include node2", "--include node2:0,1", "--exclude node1"])
def test_a_run_on_some_hosts_is_asked_to_end(
    two_hosts: dict[str, Host], distillation: Path, tmp_path: Path, chosen: str
) -> None:
    """Started on a host that takes no part."""
    (tmp_path / "hosts").write_text("node1 slots=2 # the first\r\nnode2 slots=2\r\n")
    run_dir, log = tmp_path / "run", tmp_path / "log.txt"
    script = two_hosts["node1"].start(
        *("env", f"DEEPSPEED_ARGS={chosen}", ROOT / "launchers" / "deepspeed.sh"),
        *(tmp_path / "hosts", distillation, f"run_dir={run_dir}", "total_steps=5000"),
        log=log,
        cwd=tmp_path,
    )
    wait_for("step 3", lambda: num_steps(run_dir) >= 3 or script.poll() is not None, 300)
    assert script.poll() is None, log.read_text()
    script.send_signal(signal.SIGTERM)
    script.wait(120)
    status = RunStatus.read(run_dir)
    assert status is not None, log.read_text()
    assert (status.state, status.host) == ("interrupted", "node2"), log.read_text()

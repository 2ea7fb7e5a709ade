"""Nodes that are not well are named by `tools/check_nodes.py`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT
from tests.cluster.hosts import Host, hosts, missing
from tests.runs import make_run

pytestmark = pytest.mark.cluster
NAMES = ("n1", "n2", "n3")


@pytest.fixture
def three_hosts(tmp_path: Path) -> Iterator[dict[str, Host]]:
    if reason := missing("tc"):
        pytest.skip(reason)
    with hosts(tmp_path, *NAMES) as made:
        yield made


def test_a_slow_network_and_a_folder_of_its_own(
    three_hosts: dict[str, Host], tmp_path: Path
) -> None:
    health = {"slow_rank_ratio": 20.0}  # they share the cores of one
    config = make_run(tmp_path, global_batch_size=12, health=health)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    slow = ["tbf", "rate", "30mbit", "burst", "32kbit", "latency", "400ms"]
    three_hosts["n2"].run("tc", "qdisc", "add", "dev", "eth0", "root", *slow)
    launched = []
    for number, name in enumerate(NAMES):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=3"]
        torchrun += [f"--node-rank={number}", "--nproc-per-node=1", "--master-addr=n1"]
        command = [*torchrun, "--master-port=29500", "tools/check_nodes.py", str(config)]
        if name == "n3":  # as where the shared file system is not mounted
            command = ["sh", "-c", f'mount -t tmpfs none {run_dir}; exec "$@"', "sh", *command]
        log = tmp_path / f"{name}.txt"
        launched.append(three_hosts[name].start(*command, log=log, cwd=ROOT))
    statuses = [process.wait(200) for process in launched]
    said = (tmp_path / "n1.txt").read_text()
    assert statuses == [1, 1, 1], said
    problems = [line for line in said.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 2, said
    assert f"n3: does not see what the first node creates in {run_dir}" in problems[0]
    assert "n2: it and its neighbours exchange" in problems[1]
    assert "3 ranks looked at" in said


def test_exit_status_of_a_wrong_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "check_nodes.py", tmp_path / "none.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")

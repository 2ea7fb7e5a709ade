"""A rank whose data do not come: it is not for want of shared memory, and it can be ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from taidscale.commands.outcome import START_AGAIN
from taidscale.run.status import RunStatus, ask_to_start
from tests.runs import make_run, read_lines

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if "RANK" not in name}
ENVIRONMENT["PYTHONPATH"] = str(ROOT)
# A namespace of mounts; who is not root becomes it in a namespace of users.
UNSHARE = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]


def test_a_tiny_dev_shm(tmp_path: Path) -> None:
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if subprocess.run([*UNSHARE, "sh", "-c", mount], check=False).returncode:
        pytest.skip("needs the right to mount in a namespace of its own")
    data = {"streams": [{"local": str(tmp_path / "train")}], "num_workers": 2}
    settings = {"micro_batch_size": 8, "evaluation": None, "data": data}
    config = make_run(tmp_path, **settings)
    run = f"{mount} && exec {sys.executable} -m taidscale.train {config}"
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", run],
        env=ENVIRONMENT,
        timeout=240,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(read_lines(tmp_path / "run" / "metrics.jsonl")) == 10


def test_sigterm_ends_a_rank_whose_workers_stand_still(tmp_path: Path) -> None:
    config = make_run(tmp_path, evaluation=None, total_steps=100_000)
    command = [sys.executable, "-m", "taidscale.train", str(config)]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not metrics.exists() or not metrics.read_bytes():
            assert run.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        workers = psutil.Process(run.pid).children(recursive=True)
        assert workers
        for worker in workers:
            worker.suspend()
        seen = -1
        while seen != (seen := metrics.stat().st_size):
            time.sleep(3)  # until what was made ahead is used up
        run.send_signal(signal.SIGTERM)
        try:
            assert run.wait(120) == START_AGAIN
        finally:
            run.kill()
            for worker in workers:
                if worker.is_running():
                    worker.kill()
    assert "SIGTERM: the data of the next step did not come" in (tmp_path / "log").read_text()
    status = RunStatus.read(tmp_path / "run")
    assert status is not None
    assert status.state == "interrupted"
    assert ask_to_start(tmp_path / "run", status.step)[0]

"""A run that is asked to end saves, says so, and goes on when it is started again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from taidscale.commands.outcome import START_AGAIN
from taidscale.health.stop import StopRequest
from taidscale.run.status import RunStatus
from tests.runs import make_run, read_lines

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def test_asked_by_signals_it_saves_and_goes_on(tmp_path: Path) -> None:
    checkpoint = {"every_steps": 10**6}
    config = make_run(tmp_path, total_steps=10**6, evaluation=None, checkpoint=checkpoint)
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-port=29613", "-m", "taidscale.train", str(config)]

    def start(*overrides: str) -> "subprocess.Popen[bytes]":
        log = (tmp_path / "log").open("ab")
        return subprocess.Popen([*command, *overrides], stdout=log, stderr=log, env=ENVIRONMENT)

    first = start()
    _wait_for_steps(first, run_dir, 5)
    ranks = _ranks_of(first)
    assert len(ranks) == 2
    ranks[1].send_signal(signal.SIGUSR1)  # not the rank that writes
    ranks[0].send_signal(signal.SIGTERM)
    ranks[1].send_signal(signal.SIGTERM)
    assert first.wait(300) != 0
    log = (tmp_path / "log").read_text()
    assert f"exitcode  : {START_AGAIN}" in log, log
    assert "taidscale/train.py" not in log, log  # no traceback but the launcher's own
    (saved,) = (run_dir / "checkpoints").iterdir()
    done = len((run_dir / "metrics.jsonl").read_text().splitlines())
    assert saved.name == f"step-{done:08d}"
    status = RunStatus.read(run_dir)
    assert status is not None
    assert (status.state, status.step) == ("interrupted", done)
    assert "SIG" in status.message
    assert _restart(config) == (0, f"yes: interrupted: {status.message}")

    to_the_end = f"total_steps={done + 5}"
    assert start(to_the_end).wait(300) == 0, (tmp_path / "log").read_text()
    assert [e["step"] for e in read_lines(run_dir / "metrics.jsonl")] == [*range(1, done + 6)]
    assert _restart(config, to_the_end) == (1, f"no: finished: {done + 5} steps")
    events = [json.loads(line)["event"] for line in (run_dir / "events.jsonl").open()]
    assert events == ["start", "interrupted", "start", "changed", "finished"]  # total_steps


def test_time_is_over(tmp_path: Path) -> None:
    config = make_run(tmp_path, total_steps=10**6, evaluation=None, wall_clock_hours=8 / 3600)
    command = [
        sys.executable,
        "-m",
        "taidscale.train",
        str(config),
        "checkpoint.every_steps=100000",
    ]
    bare = {name: value for name, value in ENVIRONMENT.items() if "RANK" not in name}
    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == START_AGAIN, done.stderr
    assert "wall_clock_hours" in done.stdout
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_only_ask_and_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.reason is None
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)  # a second one changes nothing
        assert stop.reason == number.name
    assert signal.getsignal(number) == before


def _restart(config: Path, *overrides: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "taidscale.restart", str(config), *overrides]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip()


def _ranks_of(launcher: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    children = psutil.Process(launcher.pid).children()
    ranks = [child for child in children if "taidscale.train" in child.cmdline()]
    return sorted(ranks, key=lambda rank: int(rank.environ()["RANK"]))


def _wait_for_steps(run: "subprocess.Popen[bytes]", run_dir: Path, number: int) -> None:
    deadline = time.monotonic() + 600
    path = run_dir / "metrics.jsonl"
    while not path.exists() or len(path.read_text().splitlines()) < number:
        assert run.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)

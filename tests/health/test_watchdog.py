"""A rank whose loop stands still writes its stacks and ends; nothing else makes it end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from taidscale.health import watchdog
from taidscale.health.watchdog import Heartbeat, Watchdog

ROOT = Path(__file__).parents[2]
PROGRAM = """
import ctypes, sys, time
from pathlib import Path
from taidscale.health import watchdog
watchdog.GRACE_SECONDS = 0.5
def stand_still():
    time.sleep(60)
def hold_the_interpreter():
    ctypes.PyDLL(None).sleep(60)
with watchdog.Watchdog(Path(sys.argv[1]), 3, float(sys.argv[3])) as dog:
    dog.beat(41)
    dog.beat(42)
    print("ready", flush=True)
    globals()[sys.argv[2]]()
"""


def start(run_dir: Path, what: str, limit: float = 1.0) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(run_dir), what, str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_hang_leaves_the_stacks_and_asks_to_be_started_again(tmp_path: Path) -> None:
    for times in (1, 2):
        process = start(tmp_path, "stand_still")
        _, errors = process.communicate(timeout=300)
        assert process.returncode == os.EX_TEMPFAIL
        stacks = (tmp_path / "stacks" / "rank-00003.txt").read_text()
        assert stacks.count("rank 3 on ") == times  # those of the hang before are kept
        assert re.search(rf"process {process.pid}: nothing for [12] s after step 42", stacks)
        assert "in stand_still" in stacks
        assert "rank-00003.txt; ending, to be started again" in errors


def test_an_extension_that_holds_the_interpreter_is_ended_too(tmp_path: Path) -> None:
    process = start(tmp_path, "hold_the_interpreter")
    process.communicate(timeout=300)
    assert process.returncode == 1
    assert "in hold_the_interpreter" in (tmp_path / "stacks" / "rank-00003.txt").read_text()


def test_the_time_for_which_a_process_was_stopped_does_not_count(tmp_path: Path) -> None:
    process = start(tmp_path, "stand_still", limit=4.0)
    process.send_signal(signal.SIGSTOP)
    time.sleep(4.5)  # beyond the limit, not beyond the last resort
    process.send_signal(signal.SIGCONT)
    woken = time.monotonic()
    assert process.wait(300) == os.EX_TEMPFAIL
    assert time.monotonic() - woken > 1.5  # of the stop no more than half of the limit counted
    assert "s after step 42" in (tmp_path / "stacks" / "rank-00003.txt").read_text()


def test_beats_and_allowances_keep_it_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[int] = []
    monkeypatch.setattr(Watchdog, "_end", lambda self, step, idle: ends.append(step))
    with Watchdog(tmp_path, 0, 2.0) as dog:
        for step in range(10):  # longer than the limit in all
            dog.beat(step)
            time.sleep(0.25)
        dog.allow(600.0)
        time.sleep(2.5)
        assert not ends
        dog.beat(5)
        deadline = time.monotonic() + 300
        while not ends:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert ends[0] == 5
    assert not list((tmp_path / "stacks").iterdir())


def test_the_heartbeat_says_where_the_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> dict[str, Any]:
        return json.loads((tmp_path / "heartbeat.json").read_text())

    before = time.time()
    heartbeat = Heartbeat(tmp_path)
    monkeypatch.setattr(watchdog, "_BEAT_SECONDS", 3600.0)
    for step in (1, 2, 3):
        heartbeat.beat(step)
        assert read()["step"] == 1
    heartbeat = Heartbeat(tmp_path)
    monkeypatch.setattr(watchdog, "_BEAT_SECONDS", 0.1)
    for step in (4, 5):
        heartbeat.beat(step)
        assert read()["step"] == step
        time.sleep(0.15)
    assert read()["pid"] == os.getpid()
    assert before <= read()["unix_seconds"] <= time.time()
    heartbeat = Heartbeat(tmp_path / "gone")
    heartbeat.beat(1)  # says so, and no more

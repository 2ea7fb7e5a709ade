"""Whether a run that ended should be started again."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taidscale.commands import stop
from taidscale.file_names import LOCK_FILE, STOP_FILE
from taidscale.health.stop import StopRequest
from taidscale.run.folder import lock_run_folder
from taidscale.run.status import (
    MAX_STARTS_WITHOUT_PROGRESS,
    RunStatus,
    ask_to_start,
    in_use,
    status_at_start,
)
from tests.runs import make_run


def start_and_die(run_dir: Path, step: int) -> None:
    status_at_start(run_dir, step).write(run_dir)


def test_before_the_first_start(tmp_path: Path) -> None:
    again, why = ask_to_start(tmp_path, 0)
    assert not again
    assert "did not get so far" in why


@pytest.mark.parametrize(
    ("state", "expected"), [("finished", False), ("failed", False), ("interrupted", True)]
)
def test_by_its_last_words(tmp_path: Path, state: Any, expected: bool) -> None:
    status = status_at_start(tmp_path, 10)
    replace(status, state=state, message="because").write(tmp_path)
    again, why = ask_to_start(tmp_path, 10)
    assert again is expected
    assert why.endswith("because")
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("early", [False, True], ids=["after its first words", "before them"])
def test_deaths_without_progress_are_counted(tmp_path: Path, early: bool) -> None:
    start_and_die(tmp_path, 10)
    for number in range(1, MAX_STARTS_WITHOUT_PROGRESS + 1):
        again, why = ask_to_start(tmp_path, 10)
        assert again is (number < MAX_STARTS_WITHOUT_PROGRESS), why
        if again and not early:
            start_and_die(tmp_path, 10)
    assert f"{MAX_STARTS_WITHOUT_PROGRESS} starts in a row" in why


def test_a_checkpoint_is_progress_also_in_the_last_start(tmp_path: Path) -> None:
    start_and_die(tmp_path, 10)
    for _ in range(MAX_STARTS_WITHOUT_PROGRESS - 1):
        assert ask_to_start(tmp_path, 10)[0]
        start_and_die(tmp_path, 10)
    assert ask_to_start(tmp_path, 5000)[0], "it trained for days before it died"
    start_and_die(tmp_path, 5000)
    status = RunStatus.read(tmp_path)
    assert status is not None
    assert (status.step, status.num_deaths) == (5000, 0)


def test_an_interruption_is_no_death(tmp_path: Path) -> None:
    for _ in range(2 * MAX_STARTS_WITHOUT_PROGRESS):
        status = status_at_start(tmp_path, 10)
        replace(status, state="interrupted", message="SIGUSR1").write(tmp_path)
        assert ask_to_start(tmp_path, 10)[0]


def test_starts_that_die_after_an_interruption_before_they_say_anything(tmp_path: Path) -> None:
    replace(status_at_start(tmp_path, 10), state="interrupted").write(tmp_path)
    answers = [ask_to_start(tmp_path, 10)[0] for _ in range(MAX_STARTS_WITHOUT_PROGRESS + 1)]
    assert answers == [*[True] * MAX_STARTS_WITHOUT_PROGRESS, False]


def test_several_ask_for_one_start(tmp_path: Path) -> None:
    start_and_die(tmp_path, 10)
    for _ in range(MAX_STARTS_WITHOUT_PROGRESS - 1):
        answers = [ask_to_start(tmp_path, 10, count=node == 1)[0] for node in range(4)]
        assert answers == [True] * 4
        start_and_die(tmp_path, 10)
    assert not any(ask_to_start(tmp_path, 10, count=node == 1)[0] for node in range(4))


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"state": "running"}'])
def test_unreadable_status(tmp_path: Path, content: str) -> None:
    (tmp_path / "status.json").write_text(content)
    assert RunStatus.read(tmp_path) is None
    assert status_at_start(tmp_path, 3).num_deaths == 0
    assert ask_to_start(tmp_path, 3)[0], "there is a checkpoint to go on from"


def hold_lock(run_dir: Path, words: str, seconds: float) -> "subprocess.Popen[bytes]":
    """Another process that has locked the folder, in the name of a host."""
    code = (
        "import fcntl, time\n"
        f"file = open({str(run_dir / LOCK_FILE)!r}, 'a+')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX)\n"
        f"file.write({words!r}); file.flush()\n"
        "print('locked', flush=True)\n"
        f"time.sleep({seconds})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"
    return process


def test_in_use_on_this_host(tmp_path: Path) -> None:
    start_and_die(tmp_path, 0)
    holder = hold_lock(tmp_path, f"process 1 on {socket.gethostname()}\n", 3600)
    assert in_use(tmp_path)
    with pytest.raises(ValueError, match=r"in use by process 1 on"):
        lock_run_folder(tmp_path)
    holder.kill()
    holder.communicate()
    assert not in_use(tmp_path)


def test_lock_of_a_node_that_died(tmp_path: Path) -> None:
    holder = hold_lock(tmp_path, "process 1 on another-host\n", 1.5)
    lock_run_folder(tmp_path).close()
    holder.communicate()
    assert (tmp_path / LOCK_FILE).read_text() == (
        f"process {os.getpid()} on {socket.gethostname()}\n"
    )


def test_only_a_run_that_goes_on_is_asked_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was asked of an earlier start is not asked of the next."""
    config = make_run(tmp_path)
    run_dir = tmp_path / "run"
    assert stop.main([str(config)]) == 1
    assert capsys.readouterr().out == f"nobody is running {run_dir}\n"
    assert not run_dir.exists()
    take = f"kept = lock_run_folder(Path({str(run_dir)!r})); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"from taidscale.run.folder import *; {take}"], stdin=subprocess.PIPE
    )
    try:
        while not in_use(run_dir):
            assert holder.poll() is None
            time.sleep(0.05)
        assert stop.main([str(config)]) == 0
    finally:
        holder.communicate(b"")
    request = StopRequest()
    assert request.reason is None
    request.obey(run_dir / STOP_FILE)
    assert request.reason is None
    assert not (run_dir / STOP_FILE).exists()
    (run_dir / STOP_FILE).write_text("asked by somebody\n")
    assert request.reason == "asked by somebody"


def test_asking_without_a_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stop.main([str(tmp_path / "absent.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err

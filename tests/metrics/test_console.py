"""The progress line: in a terminal of any width, and in a file."""

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from taidscale.metrics.run_log import RunLog
from tests.metrics.test_run_log import make_config, metrics_of

NARROWER = """
import fcntl, struct, termios
from tests.metrics.test_run_log import *
log = RunLog(make_config(Path("{folder}"), total_steps=100_000), first_step=40_000, enabled=True)
for columns in (200, 80, 60, 30):
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    log.step({{**metrics_of(40_041, loss=0.41), "teacher_kl": 0.125, "t": 0.5}})
log.close()
"""


def test_progress_never_fills_a_terminal(tmp_path: Path) -> None:
    """A line that is wider than the window would stay there at every step."""
    ours, its = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-c", NARROWER.format(folder=tmp_path)]
    shown = subprocess.Popen(command, stdout=its, env=environment, cwd=Path(__file__).parents[2])
    assert shown.wait(60) == 0
    written = os.read(ours, 10_000).decode()
    os.close(its)
    os.close(ours)
    lines = [line for line in re.split(r"[\r\n]+", written.replace("\033[K", "")) if line]
    assert all(len(line) < columns for line, columns in zip(lines, (200, 80, 60, 30), strict=True))
    figures = "loss 0.4100 kl 0.1250 t 0.5000 lr 1.00e-03 grad 2.00 12,345 tok/s"
    for line, shows in zip(lines, (figures, figures[:21], figures[:11], "%|"), strict=True):
        assert shows in line, lines


def test_console_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_log = RunLog(make_config(tmp_path, total_steps=100), first_step=40, enabled=True)
    run_log.event("start", "hello", 0)
    time.sleep(1.05)
    for step in range(41, 101):
        run_log.step({**metrics_of(step, loss=step / 100), "teacher_kl": 0.125, "t": 0.5})
    run_log.close()
    greeting, *lines = capsys.readouterr().out.splitlines()
    assert greeting == "hello"
    # The first three and the last: the others came within seconds of them.
    assert [re.findall(r"(\d+)/100", line) for line in lines] == [["41"], ["42"], ["43"], ["100"]]
    assert not re.search(r"[\r\033]", "".join(lines))
    figures = "loss 0.4100 kl 0.1250 t 0.5000 lr 1.00e-03 grad 2.00 12,345 tok/s"
    assert figures in lines[0]
    elapsed, left = re.search(r"\[(\d\d:\d\d)<(\d\d:\d\d)\]", lines[0]).groups()
    # One step was done in this start, and 59 are left.
    assert 59 * seconds_of(elapsed) <= seconds_of(left) <= 59 * (seconds_of(elapsed) + 1)
    assert seconds_of(elapsed) >= 1
    assert re.search(r"<00:00\]", lines[-1])


def seconds_of(text: str) -> int:
    minutes, seconds = text.split(":")
    return 60 * int(minutes) + int(seconds)

"""A rank or a data worker that dies takes what belongs to it along, and nothing else."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

from taidscale.run.status import ask_to_start, newest_step
from tests.runs import make_run

ROOT = Path(__file__).parents[1]


def start_alone(folder: Path) -> "tuple[subprocess.Popen[bytes], list[psutil.Process]]":
    """One rank that trains for ever, once it has saved; it, and its children's children."""
    settings = {"total_steps": 10**6, "evaluation": None, "checkpoint": {"every_steps": 5}}
    config = make_run(folder, **settings)
    command = [sys.executable, "-m", "taidscale.train", str(config)]
    bare = {name: value for name, value in os.environ.items() if "RANK" not in name}
    log = folder / "log"
    with log.open("w") as out:
        environment = {**bare, "PYTHONPATH": str(ROOT)}
        run = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    deadline = time.monotonic() + 600
    while not list(folder.glob("run/checkpoints/step-????????")):
        assert run.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return run, psutil.Process(run.pid).children(recursive=True)


def test_data_worker_that_is_killed(tmp_path: Path) -> None:
    run, children = start_alone(tmp_path)
    (worker,) = [child for child in children if not child.children() and is_worker(child)]
    worker.kill()
    assert run.wait(300) != 0, "a rank that failed must not stay"
    log = (tmp_path / "log").read_text()
    # Its death shows as itself, or in what it was about to hand over.
    seen = re.findall(r"^.*(?:cannot read the data|DataLoader worker).*$", log, re.MULTILINE)[-1]
    assert ask_to_start(tmp_path / "run", newest_step(tmp_path / "run"))[0]
    print(f"\n| a data worker killed | {seen} | the steps since the last save |")


def test_rank_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    run, children = start_alone(tmp_path)
    assert any(map(is_worker, children))
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(children, timeout=300)
    assert not alive


def is_worker(process: psutil.Process) -> bool:
    return "tracker" not in " ".join(process.cmdline())

"""A run of which one rank hangs ends by itself, says where, and goes on when started again."""

import os
import subprocess
import sys
from pathlib import Path

from taidscale.commands.restart import main as restart
from tests.runs import make_run, read_lines

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, sys, time
from pathlib import Path
from taidscale.data.loader import TrainingLoader
from taidscale.health import watchdog
from taidscale.commands.train import main

watchdog.GRACE_SECONDS = 3.0
steps, next_step, mark = 0, TrainingLoader.next_step, Path(__file__).with_name("hung")

def wait_for_ever():
    while True:
        time.sleep(1)

def hanging(loader):
    global steps
    steps += 1
    if os.environ["RANK"] == "1" and steps == 7 and not mark.exists():
        mark.touch()
        wait_for_ever()
    return next_step(loader)

TrainingLoader.next_step = hanging
sys.exit(main())
"""


def test_a_hung_rank(tmp_path: Path) -> None:
    config = make_run(tmp_path, health={"hang_minutes": 0.1})
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-port=29615", str(program), str(config)]

    def start(*overrides: str) -> tuple[int, str]:
        done = subprocess.run(
            [*command, *overrides],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=600,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    status, said = start()
    assert status != 0
    assert f"exitcode  : {os.EX_TEMPFAIL}" in said, said
    for rank, place in ((0, "in count_valid"), (1, "in wait_for_ever")):
        assert f"error: rank {rank} on " in said, said  # both, before the launcher ended either
        stacks = (tmp_path / "run" / "stacks" / f"rank-{rank:05d}.txt").read_text()
        assert ": nothing for 6 s after step 6\n" in stacks, stacks
        assert place in stacks, stacks
    assert restart([str(config)]) == 0

    status, said = start("health.hang_minutes=30")  # a step may be slow here
    assert status == 0, said
    entries = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [entry["step"] for entry in entries] == [*range(1, 11)]
    assert len(list((tmp_path / "run" / "stacks").iterdir())) == 2

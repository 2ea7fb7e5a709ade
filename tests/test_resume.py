"""A run that is killed continues exactly, under every launcher."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from taidscale.commands.train import main
from taidscale.engine.student import student_state_dict
from tests.held_run import HELD_RUN, steps_done
from tests.ranks import run_on_ranks
from tests.runs import make_run, read_lines

ROOT = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
TORCHRUN += ["--master-port=29611"]
HELD = [*TORCHRUN, HELD_RUN]
TORCHRUN += ["-m", "taidscale.train"]
DEEPSPEED = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus=2"]
DEEPSPEED += ["--master_port=29612", "--module", "taidscale.train"]


def test_killed_and_resumed_equals_undisturbed(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    holds = tmp_path / "holds"
    holds.mkdir()

    def start(launcher: list[str], run_dir: Path) -> subprocess.Popen[bytes]:
        command = [*launcher, str(config), f"run_dir={run_dir}", "teacher.tp_size=2"]
        log = (tmp_path / "log").open("ab")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOLDS": str(holds)}
        environment["HELD_METRICS"] = str(run_dir / "metrics.jsonl")
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )

    assert start(DEEPSPEED, undisturbed).wait(600) == 0, (tmp_path / "log").read_text()
    # Once while the first checkpoint is written (or just after), once between two.
    (holds / "5").touch()
    _kill_when(start(HELD, killed), lambda: any((killed / "checkpoints").glob("step-*")))
    (holds / "5").rename(holds / "7")
    _kill_when(start(HELD, killed), lambda: steps_done(killed / "metrics.jsonl") >= 6)
    assert start(TORCHRUN, killed).wait(600) == 0, (tmp_path / "log").read_text()

    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert read_lines(killed / name) == read_lines(undisturbed / name), name
    assert [entry["step"] for entry in read_lines(killed / "metrics.jsonl")] == [*range(1, 11)]
    last = Path("checkpoints") / "step-00000010"
    expected = student_state_dict(undisturbed / last)
    weights = student_state_dict(killed / last)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert not list((killed / "checkpoints").glob("*.partial"))


def test_plain_python_is_a_world_of_one(tmp_path: Path) -> None:
    config = make_run(tmp_path, total_steps=3)
    command = [sys.executable, "-m", "taidscale.train", str(config), "teacher.tp_size=1"]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    }
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    entries = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [entry["step"] for entry in entries] == [1, 2, 3]
    assert (tmp_path / "run" / "checkpoints" / "step-00000003").is_dir()
    # 60 lines of text make it overfit at once; the point is that it learns.
    first, last = read_lines(tmp_path / "run" / "evaluations.jsonl")
    assert last["teacher_kl"] < first["teacher_kl"]


def test_optimizer_settings_are_those_of_the_last_start(tmp_path: Path) -> None:
    config = str(make_run(tmp_path, total_steps=2, evaluation=None))
    run_on_ranks(1, __name__, "run_main", {"arguments": [config]})
    again = [config, "total_steps=3", "optimizer.weight_decay=0.5", "optimizer.beta2=0.5"]
    run_on_ranks(1, __name__, "run_main", {"arguments": again})
    (file,) = (tmp_path / "run" / "checkpoints" / "step-00000003").glob("*optim_states.pt")
    states = torch.load(file, weights_only=False)["optimizer_state_dict"]
    groups = states["optimizer_state_dict"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert [group["betas"][1] for group in groups] == [0.5, 0.5]


def run_main(arguments: list[str]) -> None:
    """On each rank: the command succeeds."""
    assert main(arguments) == 0


def _kill_when(run: "subprocess.Popen[bytes]", condition: Callable[[], bool]) -> None:
    """SIGKILL the launcher and all ranks at the first moment at which the condition holds."""
    deadline = time.monotonic() + 600
    while not condition():
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    launcher = psutil.Process(run.pid)
    for process in [launcher, *launcher.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    run.wait()


def test_a_finished_run_that_is_started_again_just_ends(tmp_path: Path) -> None:
    path = make_run(tmp_path, total_steps=2)
    for _ in range(2):
        run_on_ranks(2, "tests.runs", "train_quietly", {"arguments": [str(path)]})
    assert len(read_lines(tmp_path / "run" / "metrics.jsonl")) == 2

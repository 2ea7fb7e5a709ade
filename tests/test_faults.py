"""What goes wrong on real clusters, put into real runs: what the user sees, and what is lost.

With `-s` every test prints its row of the table.
"""

import contextlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from taidscale.commands.train import main
from taidscale.engine.student import student_state_dict
from taidscale.run.status import RunStatus
from tests.held_run import HELD_RUN, steps_done
from tests.ranks import run_on_ranks
from tests.runs import make_run, read_lines

ROOT = Path(__file__).parents[1]
LAST = Path("run") / "checkpoints" / "step-00000010"


def train(config: Path, *overrides: str, ranks: int = 2, **params: Any) -> None:
    """On real ranks; see `run_main`."""
    arguments = [str(config), *overrides]
    run_on_ranks(ranks, __name__, "run_main", {"arguments": arguments, **params})


def run_main(
    arguments: list[str],
    status: int = 0,
    bad_rank: int = 1,
    bad_steps: tuple[int, ...] = (),
    where: str = "gradient",
) -> None:
    """On each rank: the command, with NaN in what one rank computes in some of its steps.

    Args:
        arguments: of the command.
        status: with which it must end.
        bad_rank: whose tokens.
        bad_steps: counted from 1 and from this start, of one micro-batch each.
        where: the "gradient" or the "output" of the MLP of the second layer; "spike" makes the
            logits 30 times as large instead.
    """
    calls = 0
    kind, calls_a_step = ("Qwen2RMSNorm", 5) if where == "spike" else ("Qwen2MLP", 2)

    def inject(module: nn.Module, _: Any, output: Any) -> Any:
        nonlocal calls
        if type(module).__name__ != kind or not module.training:
            return output
        calls += 1
        step, place = divmod(calls, calls_a_step)
        if place or step not in bad_steps:  # the last one of its kind
            return output
        match where:
            case "output":
                return output * math.nan
            case "spike":
                return output * 30.0
            case _:
                output.register_hook(lambda gradient: gradient * math.nan)
                return output

    said = io.StringIO()
    hook = None
    if int(os.environ["RANK"]) == bad_rank and bad_steps:
        hook = nn.modules.module.register_module_forward_hook(inject)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        ended = main(arguments)
    if hook:
        hook.remove()
    assert ended == status, said.getvalue()


def row(fault: str, seen: str, lost: str) -> None:
    print(f"\n| {fault} | {' '.join(seen.split())} | {lost} |")


def events(run: Path, kind: str) -> list[str]:
    """Messages of one kind."""
    lines = [json.loads(line) for line in (run / "run" / "events.jsonl").open()]
    return [line["message"] for line in lines if line["event"] == kind]


def expect_equal(run: Path, other: Path) -> None:
    """Curves and weights, bit for bit."""
    metrics = Path("run") / "metrics.jsonl"
    assert read_lines(run / metrics) == read_lines(other / metrics)
    weights, expected = student_state_dict(run / LAST), student_state_dict(other / LAST)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


# --- files ----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["a file of a checkpoint deleted", "a byte of it flipped"])
def test_damaged_checkpoint(tmp_path: Path, fault: str) -> None:
    config = make_run(tmp_path)
    train(config)
    shutil.copytree(tmp_path / "run", tmp_path / "undisturbed" / "run")
    file = next((tmp_path / LAST).glob("*_1_*optim_states.pt"))
    if "deleted" in fault:
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 16
        file.write_bytes(content)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-port=29614", "-m", "taidscale.train", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("w") as out:
        assert subprocess.run(command, stdout=out, stderr=out, env=environment).returncode == 0
    (warning,) = re.findall(r"WARNING: (checkpoint .*)", log.read_text())
    assert file.name in warning
    assert "continues after step 5" in events(tmp_path, "start")[-1]
    expect_equal(tmp_path, tmp_path / "undisturbed")
    row(fault, warning.replace(str(tmp_path), "..."), "5 steps, done again; the same curve")


def test_truncated_teacher(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    file = tmp_path / "teacher" / "model.safetensors"
    if not file.exists():
        file = next((tmp_path / "teacher").glob("*.safetensors"))
    os.truncate(file, file.stat().st_size // 2)
    train(config, status=2)
    status = RunStatus.read(tmp_path / "run")
    assert status is not None
    assert status.state == "failed"
    assert f"{file.name} is missing or truncated" in status.message
    row("a file of the teacher truncated", status.message.replace(str(tmp_path), "..."), "nothing")


# --- numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["gradient", "output"])
@pytest.mark.parametrize("stage", [0, 3])
def test_one_bad_step_is_skipped(tmp_path: Path, where: str, stage: int) -> None:
    config = make_run(tmp_path, evaluation=None, micro_batch_size=4)
    train(config, f"zero.stage={stage}", bad_steps=(3,), where=where)
    (seen,) = events(tmp_path, "skipped")
    assert seen.startswith("step 3 was skipped")
    assert "rank 1" in seen
    assert "layers.1" in seen
    metrics = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [entry["step"] for entry in metrics] == [*range(1, 11)]
    assert [entry["skipped_steps"] for entry in metrics] == [0, 0, *[1] * 8]
    assert metrics[3]["t"] == metrics[2]["t"], "a step that taught nothing moves nothing"
    assert metrics[2]["num_tokens"] == metrics[1]["num_tokens"]
    assert math.isfinite(metrics[-1]["loss"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "skipped_samples.jsonl").open()]
    assert {line["rank"] for line in lines} == {1}
    assert all(len(key) == 3 for line in lines for key in line["keys"])
    row(f"NaN in one rank's {where}", seen, "one update; its samples are listed")


def test_bad_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    config = make_run(tmp_path, evaluation=None, micro_batch_size=4)
    overrides = ["health.max_skipped_in_a_row=3"]
    train(config, *overrides, bad_steps=tuple(range(5, 11)), status=2)
    status = RunStatus.read(tmp_path / "run")
    assert status is not None
    assert status.state == "failed"
    assert "health.max_skipped_in_a_row" in status.message
    assert "rank 1" in status.message
    row("NaN in one rank's gradient in every step", status.message, "nothing: no update was made")


def test_spike_of_the_loss(tmp_path: Path) -> None:
    checkpoint = {"every_steps": 10, "keep_every_steps": 10}
    settings = {"total_steps": 24, "evaluation": None, "micro_batch_size": 4}
    config = make_run(tmp_path, checkpoint=checkpoint, **settings)
    watched = ["health.spike.window=8", "health.spike.roll_back=true"]
    train(config, *watched, bad_steps=(15, 19), where="spike")  # 19: four steps after 10 again
    run = tmp_path / "run"
    spike, _ = events(tmp_path, "spike")
    rolled_back, again = events(tmp_path, "rolled back")
    assert again.startswith("rolled back from step 14 to step 10")
    assert spike.startswith("step 15: the loss is ")
    assert rolled_back.startswith("rolled back from step 15 to step 10")
    metrics = read_lines(run / "metrics.jsonl")
    assert [entry["step"] for entry in metrics] == [*range(1, 25)]
    undone = read_lines(run / "undone.jsonl")
    assert [entry["step"] for entry in undone] == [*range(11, 16), *range(11, 15)]
    samples = [entry["epoch/train"] for entry in metrics]
    size = samples[1] - samples[0]
    # Nine steps' samples are never seen again.
    assert samples[10] - samples[9] == pytest.approx(10 * size)
    row("a spike of the loss, with roll-back", f"{spike}; {rolled_back}", "5 steps, on purpose")

    # A start from before the next checkpoint goes on behind the same samples.
    for later in ("step-00000020", "step-00000024"):
        shutil.rmtree(run / "checkpoints" / later)
    train(config, *watched)
    assert read_lines(run / "metrics.jsonl") == metrics


def test_spikes_too_often(tmp_path: Path) -> None:
    settings = {"total_steps": 24, "evaluation": None, "micro_batch_size": 4}
    config = make_run(tmp_path, checkpoint={"every_steps": 10}, **settings)
    watched = ["health.spike.window=8", "health.spike.roll_back=true"]
    watched += ["health.spike.max_roll_backs=1"]
    train(config, *watched, bad_steps=(15, 19), where="spike", status=2)
    status = RunStatus.read(tmp_path / "run")
    assert status is not None
    assert status.state == "failed"
    assert "health.spike.max_roll_backs" in status.message


# --- machines -------------------------------------------------------------------------


def test_clock_that_jumps(tmp_path: Path) -> None:
    library = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
    if not library.exists():
        pytest.skip("needs Debian's faketime")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    config = make_run(tmp_path)
    train(config, f"run_dir={tmp_path / 'undisturbed' / 'run'}", ranks=1)
    bare = {name: value for name, value in os.environ.items() if "RANK" not in name}
    environment = {
        **bare,
        "PYTHONPATH": str(ROOT),
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "HOLDS": str(tmp_path),
        "HELD_METRICS": str(tmp_path / "run" / "metrics.jsonl"),
    }
    for step in ("2", "5"):
        (tmp_path / step).touch()
    command = [sys.executable, HELD_RUN, str(config)]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + 600
        for wanted, jump in ((2, "+2d"), (5, "-3d")):
            while steps_done(tmp_path / "run" / "metrics.jsonl") < wanted:
                assert run.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.002)
            offset.with_suffix(".new").write_text(jump)
            offset.with_suffix(".new").replace(offset)
            (tmp_path / str(wanted)).unlink()
        assert run.wait(600) == 0, (tmp_path / "log").read_text()
    expect_equal(tmp_path, tmp_path / "undisturbed")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    times = [line["unix_seconds"] for line in lines]
    assert max(times) - times[0] > 86400, "the clock did not jump"
    assert times[-1] < times[0], "the clock did not jump back"
    assert all(0 < line["step_seconds"] < 60 for line in lines)
    row("the clock set two days ahead, then three back", "`unix_seconds` jumps", "nothing")

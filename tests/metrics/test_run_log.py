"""What a run tells people: files without gaps or repetitions, a console, W&B, seconds."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from taidscale.config.schema import RunConfig
from taidscale.metrics.clock import StepClock
from taidscale.metrics.run_log import RunLog

EVALUATION = {"teacher_kl": 0.5, "next_token_loss": 2.25, "top1_agreement": 0.75}


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


def make_config(run_dir: Path, **settings: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run_dir": str(run_dir),
            "total_steps": 10,
            "seq_len": 8,
            "micro_batch_size": 1,
            "global_batch_size": 1,
            "student": {"init": {"source": "pretrained", "model": "unused"}},
            "loss": {"objective": "cross_entropy"},
            "learning_rate": {"schedule": "constant", "peak": 1e-3},
            "data": {"streams": [{"local": "unused"}]},
            "checkpoint": {"every_steps": 1},
            **settings,
        }
    )


def metrics_of(step: int, loss: float = 1.5) -> dict[str, float]:
    return {
        "step": step,
        "loss": loss,
        "learning_rate": 1e-3,
        "gradient_norm": 2.0,
        "tokens_per_second": 12345.0,
    }


def write(config: RunConfig, steps: range, *, first_step: int = 0, loss: float = 1.5) -> None:
    """A part of a run, with an evaluation at its start and after every second step."""
    run_log = RunLog(config, first_step=first_step, enabled=True)
    if first_step == 0:
        run_log.evaluation({"step": 0, **EVALUATION}, "held-out")
    for step in steps:
        run_log.step(metrics_of(step, loss))
        if step % 2 == 0:
            run_log.evaluation({"step": step, **EVALUATION}, "held-out")
    run_log.close()


def read(path: Path, name: str = "loss") -> list[tuple[int, float]]:
    """Step and one figure of each line; each must be complete JSON."""
    lines = path.read_text().split("\n")
    assert lines.pop() == "", "the last line has an end"
    return [(entry["step"], entry[name]) for entry in map(json.loads, lines)]


# --- files ----------------------------------------------------------------------------


def test_one_line_per_step(tmp_path: Path) -> None:
    before = time.time()
    run_log = RunLog(make_config(tmp_path), first_step=0, enabled=True)
    for step in (1, 2, 3):
        run_log.step(metrics_of(step, loss=step / 4))
        # At once, for whoever watches the file.
        assert len(read(tmp_path / "metrics.jsonl")) == step
    run_log.close()
    assert read(tmp_path / "metrics.jsonl") == [(1, 0.25), (2, 0.5), (3, 0.75)]
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert before <= first.pop("unix_seconds") <= time.time()
    assert first == metrics_of(1, loss=0.25)
    assert (tmp_path / "evaluations.jsonl").read_text() == ""


def test_evaluation_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(make_config(tmp_path), range(1, 5))
    lines = read(tmp_path / "evaluations.jsonl", "teacher_kl")
    assert lines == [(0, 0.5), (2, 0.5), (4, 0.5)]
    assert [step for step, _ in read(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    said = "held-out after step 2: teacher_kl 0.5000, next_token_loss 2.2500, top1_agreement 0.7500"
    assert said in capsys.readouterr().out.splitlines()


def test_resume_drops_what_will_be_done_again(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write(config, range(1, 8))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 0.')  # torn by the crash
    write(config, range(5, 11), first_step=4, loss=0.5)
    expected = [(step, 1.5) for step in range(1, 5)] + [(step, 0.5) for step in range(5, 11)]
    assert read(tmp_path / "metrics.jsonl") == expected
    evaluated = [step for step, _ in read(tmp_path / "evaluations.jsonl", "teacher_kl")]
    assert evaluated == [0, 2, 4, 6, 8, 10]
    assert not list(tmp_path.glob("*.partial"))


def test_resume_after_a_last_line_without_end(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write(config, range(1, 4))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().removesuffix("\n"))
    write(config, range(4, 5), first_step=3)
    assert [step for step, _ in read(path)] == [1, 2, 3, 4]


def test_starting_anew_drops_everything(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write(config, range(1, 6))
    write(config, range(1, 3), loss=0.5)
    assert read(tmp_path / "metrics.jsonl") == [(1, 0.5), (2, 0.5)]
    evaluated = [step for step, _ in read(tmp_path / "evaluations.jsonl", "teacher_kl")]
    assert evaluated == [0, 2]


def test_rolled_back_steps_are_kept_apart(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write(config, range(1, 5))
    run_log = RunLog(config, first_step=4, enabled=True)
    run_log.step(metrics_of(5, loss=9.0))
    run_log.event("spike", "the loss of 9 is too high", 5)
    run_log.roll_back(3)
    for step in (4, 5):
        run_log.step(metrics_of(step, loss=0.25))
    run_log.close()
    expected = [(1, 1.5), (2, 1.5), (3, 1.5), (4, 0.25), (5, 0.25)]
    assert read(tmp_path / "metrics.jsonl") == expected
    assert [step for step, _ in read(tmp_path / "evaluations.jsonl", "teacher_kl")] == [0, 2]
    undone = [json.loads(line) for line in (tmp_path / "undone.jsonl").open()]
    assert [(entry["step"], entry.get("loss")) for entry in undone] == [
        (4, 1.5),
        (5, 9.0),
        (4, None),
    ]
    (event,) = [json.loads(line) for line in (tmp_path / "events.jsonl").open()]
    assert (event["event"], event["step"]) == ("spike", 5)


def test_disabled_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(tmp_path, wandb={"mode": "offline"})
    run_log = RunLog(config, first_step=0, enabled=False)
    run_log.event("start", "hello", 0)
    run_log.step(metrics_of(1))
    run_log.evaluation({"step": 1, **EVALUATION}, "held-out")
    run_log.close()
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


# --- Weights & Biases -----------------------------------------------------------------


def test_wandb_offline_keeps_one_id(tmp_path: Path) -> None:
    config = make_config(tmp_path, wandb={"mode": "offline", "project": "taid-project"})
    for first_step in (0, 2):
        write(config, range(first_step + 1, first_step + 3), first_step=first_step)
        time.sleep(1.1)  # the folder's name has seconds
    (run_id,) = {path.read_text() for path in tmp_path.glob("wandb_id")}
    assert re.fullmatch(r"[0-9a-f]{8}", run_id)
    folders = sorted(tmp_path.glob("wandb/offline-run-*"))
    assert len(folders) == 2
    assert {folder.name.rsplit("-", 1)[-1] for folder in folders} == {run_id}
    for folder in folders:
        content = (folder / f"run-{run_id}.wandb").read_bytes()
        for text in (b"gradient_norm", b"evaluation/held-out/teacher_kl", b"taid-project"):
            assert text in content, text
        # The run's settings, flat.
        assert b"learning_rate.peak" in content


def test_wandb_disabled_leaves_nothing(tmp_path: Path) -> None:
    write(make_config(tmp_path), range(1, 3))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"metrics.jsonl", "evaluations.jsonl", "events.jsonl"}


# --- seconds and memory ---------------------------------------------------------------


def test_clock_adds_up_and_starts_anew() -> None:
    clock = StepClock(torch.device("cpu"))
    with clock.section("before"):  # of no step: an evaluation, a checkpoint
        time.sleep(0.02)
    created = time.perf_counter()
    clock.start_step()
    for _ in range(2):
        with clock.section("outer"):
            time.sleep(0.02)
            with clock.section("inner"):
                time.sleep(0.01)
    with clock.waiting("wait"):
        time.sleep(0.03)
    time.sleep(0.01)
    step = clock.end_step(1000)
    limit = time.perf_counter() - created
    others = {"step_seconds", "tokens_per_second", "peak_memory_gib"}
    assert step.keys() == {"outer_seconds", "inner_seconds", "wait_seconds"} | others
    assert step["inner_seconds"] >= 0.02
    assert step["outer_seconds"] >= 0.04 + step["inner_seconds"]
    assert step["wait_seconds"] >= 0.03
    assert step["outer_seconds"] + step["wait_seconds"] + 0.01 <= step["step_seconds"] <= limit
    assert step["tokens_per_second"] == pytest.approx(1000 / step["step_seconds"])

    started = time.perf_counter()
    clock.start_step()
    with clock.section("outer"):
        time.sleep(0.01)
    again = clock.end_step(1000)
    assert again.keys() == {"outer_seconds"} | others
    assert 0.01 <= again["outer_seconds"] <= again["step_seconds"]
    assert again["step_seconds"] <= time.perf_counter() - started


def test_peak_memory_grows_with_what_is_held() -> None:
    clock = StepClock(torch.device("cpu"))
    before = clock.end_step(1)["peak_memory_gib"]
    # Touched, so that it is resident; more than whatever was ever freed by this process.
    held = torch.ones(int((before + 0.25) * 2**28))
    after = clock.end_step(1)["peak_memory_gib"]
    assert after - before > 0.2
    assert held.element_size() == 4

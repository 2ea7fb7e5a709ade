"""A configuration is read and refused where torch cannot be imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from taidscale.commands.dispatch import main

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "tinyswallow-1.5b.yaml")
WRONG = ["seed=many", "teacher.tpsize=2", "data.phases=[{from_step: 99999, proportions: {}}]"]


def run(*arguments: str, rank: str = "0") -> tuple[int, str, str]:
    """Exit status, output and errors of a command where torch is not to be had."""
    done = subprocess.run(
        [sys.executable, "-m", "taidscale", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'tests' / 'without_torch'}:{ROOT}",
            "RANK": rank,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["train", "check", "verify", "nodes", "restart", "stop"])
def test_a_typo_is_said_without_torch(command: str) -> None:
    status, out, errors = run(command, CONFIG, "teacher.tpsize=2")
    assert status == (1 if command == "restart" else 2)
    assert out == ""
    *before, headline, problem = errors.splitlines()
    assert before == ([f"INFO: reading {CONFIG}"] if command == "train" else [])
    assert headline == f"{'no' if command == 'restart' else 'error'}: {CONFIG}: 1 problem"
    assert problem == "  teacher.tpsize: unknown setting; did you mean 'tp_size'?"


def test_another_rank_is_silent() -> None:
    assert run("train", CONFIG, "teacher.tpsize=2", rank="1") == (2, "", "")


def test_a_plan_with_a_typo_needs_no_torch() -> None:
    status, _, errors = run("plan", CONFIG, "--gpus", "64", "teacher.tpsize=2")
    assert (status, errors.splitlines()[0]) == (2, f"error: {CONFIG}: 1 problem")


def test_a_right_configuration_needs_no_torch() -> None:
    assert run("check", CONFIG) == (
        0,
        f"{CONFIG} is right: taid, teacher Qwen/Qwen2.5-32B-Instruct, 12,000 steps of 512 x 4,096 "
        "tokens in runs/tinyswallow-1.5b\n",
        "",
    )


def test_all_that_is_wrong_is_said_together(capsys: pytest.CaptureFixture[str]) -> None:
    """Fields and what disagrees between them."""
    assert main(["check", CONFIG, *WRONG]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    problems = errors.splitlines()[1:]
    assert errors.startswith(f"error: {CONFIG}: {len(problems)} problems\n")
    for path in ("seed", "teacher.tpsize", "data"):
        assert any(line.strip().startswith(path) for line in problems), errors


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_deepspeed_puts_between_the_arguments_changes_nothing(
    place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["check", CONFIG]
    arguments.insert(place, "--local_rank=1")
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith(CONFIG)

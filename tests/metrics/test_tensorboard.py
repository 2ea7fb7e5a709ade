"""TensorBoard shows each step once: after a kill, a resume and a roll-back too."""

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from taidscale.config.schema import RunConfig
from taidscale.metrics.run_log import RunLog
from taidscale.run.preflight import prepare
from tests.metrics.test_run_log import EVALUATION, make_config, metrics_of, write

ROOT = Path(__file__).parents[2]


def a_second_later() -> None:
    """The names of event files, by which they are put in order, have seconds."""
    time.sleep(1.05)


def with_tensorboard(run_dir: Path) -> RunConfig:
    return make_config(run_dir, tensorboard={"enabled": True})


def shown(run_dir: Path) -> EventAccumulator:
    events = EventAccumulator(str(run_dir / "tensorboard"), {"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def scalars(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in shown(run_dir).Scalars(tag)]


def test_every_figure_under_its_name(tmp_path: Path) -> None:
    write(with_tensorboard(tmp_path), range(1, 4), loss=0.25)
    assert scalars(tmp_path, "train/loss") == [(1, 0.25), (2, 0.25), (3, 0.25)]
    assert scalars(tmp_path, "train/tokens_per_second") == [(n, 12345.0) for n in (1, 2, 3)]
    kl = EVALUATION["teacher_kl"]
    assert scalars(tmp_path, "evaluation/held-out/teacher_kl") == [(0, kl), (2, kl)]
    tags = shown(tmp_path).Tags()
    assert len(tags["scalars"]) == len(metrics_of(1)) - 1 + len(EVALUATION)
    assert tags["tensors"] == ["settings/text_summary"]
    (settings,) = shown(tmp_path).Tensors("settings/text_summary")
    assert b"total_steps: 10" in settings.tensor_proto.string_val[0]


def test_killed_and_resumed(tmp_path: Path) -> None:
    """What was written before a `kill -9` is there, and what is done again is there once."""
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from taidscale.metrics.run_log import RunLog\n"
        "from tests.metrics.test_run_log import metrics_of\n"
        "from tests.metrics.test_tensorboard import with_tensorboard\n"
        f"run_log = RunLog(with_tensorboard(Path({str(tmp_path)!r})), first_step=0, enabled=True)\n"
        "for step in range(1, 8):\n"
        "    run_log.step(metrics_of(step, loss=1.5))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, timeout=600)
    assert died.returncode == -9
    assert scalars(tmp_path, "train/loss") == [(step, 1.5) for step in range(1, 8)]
    a_second_later()
    write(with_tensorboard(tmp_path), range(5, 11), first_step=4, loss=0.5)
    expected = [(step, 1.5) for step in range(1, 5)] + [(step, 0.5) for step in range(5, 11)]
    assert scalars(tmp_path, "train/loss") == expected


def test_starting_anew_shows_nothing_of_before(tmp_path: Path) -> None:
    write(with_tensorboard(tmp_path), range(1, 6))
    a_second_later()
    write(with_tensorboard(tmp_path), range(1, 3), loss=0.5)
    assert scalars(tmp_path, "train/loss") == [(1, 0.5), (2, 0.5)]
    evaluated = scalars(tmp_path, "evaluation/held-out/teacher_kl")
    assert [step for step, _ in evaluated] == [0, 2]


def test_rolled_back(tmp_path: Path) -> None:
    run_log = RunLog(with_tensorboard(tmp_path), first_step=0, enabled=True)
    for step in range(1, 6):
        run_log.step(metrics_of(step, loss=9.0))
    a_second_later()
    run_log.roll_back(3)
    for step in (4, 5, 6):
        run_log.step(metrics_of(step, loss=0.25))
    run_log.close()
    expected = [(step, 9.0) for step in (1, 2, 3)] + [(step, 0.25) for step in (4, 5, 6)]
    assert scalars(tmp_path, "train/loss") == expected


def test_a_skipped_step_is_not_a_number(tmp_path: Path) -> None:
    write(with_tensorboard(tmp_path), range(1, 2), loss=math.nan)
    ((step, loss),) = scalars(tmp_path, "train/loss")
    assert step == 1
    assert math.isnan(loss)


def test_off_by_default(tmp_path: Path) -> None:
    write(make_config(tmp_path), range(1, 3))
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_package_is_missing(
    enabled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it could not be imported
    settings: dict[str, Any] = {"tensorboard": {"enabled": enabled}}
    with pytest.raises(ValueError, match=r"unused") as wrong:
        prepare(make_config(tmp_path, **settings))
    told = (
        "tensorboard.enabled: true, but the package tensorboard is not installed; pip install "
        "tensorboard, or set false"
    )
    assert (told in str(wrong.value)) is enabled

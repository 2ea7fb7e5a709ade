"""Damaged files of a run: each is named, and none that only reports read stops it."""

import contextlib
import io
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from taidscale.commands.train import main
from taidscale.config.load import load_config
from taidscale.publishing.lineage import RunRecord
from taidscale.report.history import RunReader
from taidscale.report.writing import write_report
from tests.ranks import run_on_ranks
from tests.runs import make_run, read_lines


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("trained")
    params = {"arguments": [str(make_run(folder)), "total_steps=4"]}
    run_on_ranks(1, "tests.runs", "train_quietly", params)
    return folder


def test_lines_that_only_reports_read(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    metrics, events = run / "metrics.jsonl", run / "events.jsonl"
    metrics.write_bytes(metrics.read_bytes() + b'13\n\xff\n{"step": 5, "los')
    events.write_bytes(events.read_bytes() + b'{"event": "sp')
    (run / "wandb_id").write_text("")
    checkpoint = run / "checkpoints" / "step-00000004"
    record = RunRecord.read(load_config(run / "config.yaml"), checkpoint, run / "student")
    assert [entry["step"] for entry in record.metrics] == [1, 2, 3, 4]
    arguments = [str(trained / "run.yaml"), f"run_dir={run}", "total_steps=6"]
    params = {"arguments": [*arguments, "wandb.mode=offline"]}
    run_on_ranks(1, "tests.runs", "train_quietly", params)
    assert [entry["step"] for entry in read_lines(metrics)] == [*range(1, 7)]
    assert all(json.loads(line)["event"] for line in events.open())


def refused(arguments: list[str], says: str) -> None:
    """On the one rank."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments) == 2
    assert says in said.getvalue(), said.getvalue()
    assert "Traceback" not in said.getvalue()


def test_where_the_data_go_on_is_not_guessed(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    (run / "roll_backs.json").write_text("[{")
    arguments = [str(trained / "run.yaml"), f"run_dir={run}", "total_steps=6"]
    says = f"{run / 'roll_backs.json'} cannot be read"
    run_on_ranks(1, __name__, "refused", {"arguments": arguments, "says": says})


def test_a_folder_that_goes_away_is_noticed(trained: Path, tmp_path: Path) -> None:
    arguments = [str(trained / "run.yaml"), f"run_dir={tmp_path / 'run'}", "total_steps=6"]
    run_on_ranks(1, __name__, "train_without_folder", {"arguments": arguments})
    assert not (tmp_path / "run" / "checkpoints").exists()


def train_without_folder(arguments: list[str]) -> None:
    """On the one rank: the folder is moved once there is a step."""
    run = Path(arguments[1].removeprefix("run_dir="))

    def remove() -> None:
        while not (run / "metrics.jsonl").exists():
            time.sleep(0.001)
        run.rename(run.with_name("moved"))

    thread = threading.Thread(target=remove, daemon=True)
    thread.start()
    refused(arguments, f"run_dir: {run} was moved, or deleted, while the run was going on")


def test_a_name_with_dollars_is_drawn(trained: Path, tmp_path: Path) -> None:
    names = ["a$\\frac{b$c", "$x_1$"]
    runs = []
    for name in names:
        shutil.copytree(trained / "run", tmp_path / name)
        runs.append(RunReader(tmp_path / name, name).read(lambda _: None))
    (tmp_path / "report").mkdir()
    write_report(runs, tmp_path / "report", peak_tflops=None, reload_seconds=None, progress=list)
    assert "$x_1$" in (tmp_path / "report" / "report.html").read_text()

"""`taidscale init` as a user sees it."""

import os
from pathlib import Path

import pytest

from taidscale.commands.init import main
from taidscale.config.load import check_world, load_config
from taidscale.corpus.in_memory import write_shards
from taidscale.data.tokenizer import load_tokenizer
from taidscale.planning.gpus import GPUS
from taidscale.planning.shapes import run_shapes
from taidscale.planning.suggestions import leaves_room
from taidscale.planning.workload import Workload
from tests.tiny_models import save_byte_tokenizer, save_tiny_model

QWEN = ["--teacher", "Qwen/Qwen2.5-32B-Instruct", "--student", "Qwen/Qwen2.5-1.5B-Instruct"]
HUGE = ["--teacher", "meta-llama/Llama-3.1-405B", "--student", "meta-llama/Llama-3.2-1B"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("models", "gpus", "gpu"),
    [(QWEN, 64, "h100-80g"), (QWEN, 8, "a100-40g"), (QWEN, 24, "h200"), (HUGE, 8, "h200")],
)
def test_what_is_written_fits(models: list[str], gpus: int, gpu: str) -> None:
    assert main([*models, "--gpus", str(gpus), "--gpu", gpu, "--tokens", "25B"]) == 0
    config = load_config("run.yaml")
    check_world(config, gpus, 8)
    assert leaves_room(Workload(config, *run_shapes(config), gpus), GPUS[gpu])
    tokens = config.total_steps * config.global_batch_size * config.seq_len
    assert 25e9 <= tokens < 25.01e9


def test_a_short_run_takes_small_steps() -> None:
    assert main([*QWEN, "--gpus", "8", "--tokens", "100M"]) == 0
    assert load_config("run.yaml").total_steps > 1000


def test_what_a_person_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QWEN, "--gpus", "64", "--data", "a", "b: c", "--held-out", "d"]) == 0
    text = Path("run.yaml").read_text()
    assert text.startswith("# For 64 x h100-80g, by the planner: ")
    assert "\n  tp_size: 2  # GPUs of a node that share a copy; there are 32\n" in text
    config = load_config("run.yaml")
    assert [stream.local for stream in config.data.streams] == ["a", "b: c"]
    assert config.evaluation is not None
    assert config.evaluation.data == "d"
    out = capsys.readouterr().out
    assert "taidscale prepare --tokenizer Qwen/Qwen2.5-32B-Instruct --seq-len 4096 --out a " in out
    assert "taidscale plan run.yaml --gpus 64 --gpus-per-node 8 --gpu h100-80g\n" in out
    assert "warning" not in out


def test_nothing_is_replaced_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text("mine")
    line = refusal([*QWEN, "--gpus", "64"], capsys)
    assert line == (
        "error: run.yaml exists already; choose another --out, or replace it by --force"
    )
    assert Path("run.yaml").read_text() == "mine"
    assert main([*QWEN, "--gpus", "64", "--force"]) == 0
    load_config("run.yaml")


def test_folders_of_models_and_shards(capsys: pytest.CaptureFixture[str]) -> None:
    for role, rows in (("teacher", 264), ("student", 2000)):
        save_tiny_model(Path(role), "qwen2", vocab_size=rows)
        save_byte_tokenizer(Path(role))
    write_shards(["what may come next"] * 9, load_tokenizer("teacher"), 16, Path("shards"))
    models = ["--teacher", "teacher", "--student", "student", "--gpus", "2", "--tokens", "1M"]
    assert main([*models, "--data", "shards"]) == 0
    assert load_config("run.yaml").seq_len == 16
    out = capsys.readouterr().out
    assert "warning: the heads have 264 and 2,000 rows" in out
    assert "prepare" not in out
    assert main([*models, "--out", "other.yaml"]) == 0
    assert load_config("other.yaml").seq_len == 64  # the places that the models have
    capsys.readouterr()
    line = refusal([*models, "--data", "shards", "--seq-len", "32", "--force"], capsys)
    assert line.startswith("error: the lengths of sequences differ: shards 16, --seq-len 32;")
    line = refusal([*models, "--seq-len", "128", "--force"], capsys)
    assert line == "error: --seq-len: 128 is more than the 64 places of --teacher"


def test_a_teacher_that_cannot_fit(capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal([*HUGE, "--gpus", "8"], capsys)
    assert "meta-llama/Llama-3.1-405B (405.9 B parameters)" in line
    assert "do not fit on 8 x h100-80g: with teacher.tp_size 8" in line
    assert "the most is its teacher shard" in line
    assert line.endswith("it would fit with --gpu h200 or --gpu b200")
    assert not Path("run.yaml").exists()
    few = [*QWEN, "--gpus", "1", "--gpu", "a100-80g"]
    assert "it would fit with --gpus 2 or " in refusal(few, capsys)
    assert main([*QWEN, "--gpus", "2", "--gpu", "a100-80g"]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpus", "8"], "--teacher and --student must be given, or --examples DIR alone"),
        ([*QWEN, "--gpus", "12"], "--gpus: 12 is not a multiple of the 8 GPUs of a node"),
        ([*QWEN, "--gpus", "0"], "--gpus 0 and --gpus-per-node 8 must be above 0"),
        ([*QWEN, "--gpus", "8", "--gpu", "h1000"], "--gpu: 'h1000' is not known; "),
        ([*QWEN, "--gpus", "8", "--tokens", "many"], "--tokens: 'many' is no number of tokens"),
        ([*QWEN, "--gpus", "8", "--seq-len", "1"], "--seq-len must be 2 or more (got 1)"),
        ([*QWEN, "--gpus", "8", "--out", "no/where.yaml"], "[Errno 2] No such file or directory"),
        ([*QWEN[:3], "Qwen/Qwen2.5-2B", "--gpus", "8"], "--student: 'Qwen/Qwen2.5-2B' is not a"),
        ([*QWEN, "--gpus", "8", "--data", "."], "manifest.json"),
        ([*QWEN, "--gpus", "8", "--data", "a/x", "b/x"], "several streams are called 'x'"),
    ],
)
def test_refuses(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refusal(arguments, capsys)
    assert not Path("run.yaml").exists()


def test_examples_are_copied_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--examples", str(tmp_path)]) == 0
    assert f"wrote {tmp_path / 'configs' / 'quickstart.yaml'}" in capsys.readouterr().out
    assert os.access(tmp_path / "launchers" / "torchrun.sh", os.X_OK)
    (tmp_path / "configs" / "quickstart.yaml").write_text("mine")
    assert main(["--examples", str(tmp_path)]) == 2
    assert "is there already, and different" in capsys.readouterr().err
    assert (tmp_path / "configs" / "quickstart.yaml").read_text() == "mine"

"""The configurations of real pairs: planned from their published sizes, and run scaled down."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from taidscale.commands.train import main
from taidscale.config.load import load_config
from taidscale.planning.gpus import GPUS
from taidscale.planning.memory import memory
from taidscale.planning.shapes import run_shapes
from taidscale.planning.workload import Workload
from tests.ranks import run_on_ranks
from tests.runs import SEQ_LEN, make_run, read_lines
from tests.tiny_models import add_tokens, save_byte_tokenizer, save_tiny_model

CONFIGS = Path(__file__).parents[1] / "configs"
PAIRS = {
    "phi3-mini-tinyllama": (8, "phi3", "llama"),
    "stablelm-pythia": (8, "stablelm", "gpt_neox"),
    "qwen3-30b-a3b-to-1.7b": (32, "qwen3_moe", "qwen3"),
    "smollm-corpus-tinyllama": (64, "phi3", "llama"),
}
"""GPUs that the file names, and the families of teacher and student."""


@pytest.mark.parametrize("name", PAIRS)
def test_fits_the_gpus_that_it_names(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    student, teacher = run_shapes(config)
    gpus, *families = PAIRS[name]
    assert teacher is not None
    assert [teacher.family, student.family] == families
    needed = memory(Workload(config, student, teacher, world_size=gpus)).needed
    assert needed < GPUS["h100-80g"].memory


@pytest.mark.parametrize("name", PAIRS)
def test_runs_scaled_down(name: str, tmp_path: Path) -> None:
    settings = scaled_down(name, tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    arguments = [str(tmp_path / "run.yaml")]
    run_on_ranks(2, __name__, "train", {"arguments": arguments})
    lines = [line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    left_out = (tmp_path / "run" / "events.jsonl").read_text()
    shares = settings["teacher"].get("vocabulary") == "shared_prefix"
    assert ("left out are 2 of the teacher" in left_out) == shares


def train(arguments: list[str]) -> None:
    assert main(arguments) == 0


def scaled_down(name: str, folder: Path) -> dict[str, Any]:
    """The file's settings with small models, little data and three steps."""
    make_run(folder)
    _, teacher, student = PAIRS[name]
    settings: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    shares = settings["teacher"].get("vocabulary") == "shared_prefix"
    for role, family, rows in (("teacher", teacher, 264), ("student", student, 260)):
        for path in (folder / role).iterdir():
            path.unlink()
        save_tiny_model(folder / role, family, vocab_size=rows)
        save_byte_tokenizer(folder / role)
        if role == "teacher" and shares:
            add_tokens(folder / role, ("<|user|>", "<|assistant|>"))
    tp_size = min(2, settings["teacher"]["tp_size"])
    settings["teacher"] |= {"model": str(folder / "teacher"), "tp_size": tp_size}
    settings["teacher"]["load"] = settings["student"]["load"] = "broadcast"
    settings["student"]["init"]["model"] = str(folder / "student")
    settings["data"] |= {"streams": [{"local": str(folder / "train")}], "num_workers": 1}
    settings["data"].pop("num_canonical_nodes", None)
    settings["evaluation"] |= {"data": str(folder / "held-out"), "every_steps": 3}
    settings["learning_rate"] |= {"warmup_steps": 1, "decay_steps": 1}
    return settings | {
        "run_dir": str(folder / "run"),
        "total_steps": 3,
        "seq_len": SEQ_LEN,
        "micro_batch_size": 1,
        "global_batch_size": 4,
        "checkpoint": {"every_steps": 3},
        "wandb": {"mode": "disabled"},
    }

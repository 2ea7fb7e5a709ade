"""Exporting works from any folder, from a bare clone, and refuses in one line."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from taidscale.engine.student import student_state_dict
from taidscale.train import main
from tests.ranks import run_on_ranks
from tests.runs import make_run
from tests.tools.commands import expect_error, expect_success, start

GENERATION = {"temperature": 0.25, "do_sample": True}


def run_main(arguments: list[str]) -> None:
    """On each rank: the command succeeds."""
    assert main(arguments) == 0


def figure(said: str, name: str) -> str:
    found = re.search(rf"^ *{name} +(.+)$", said, re.MULTILINE)
    assert found, said
    return found[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps in `run`, with a checkpoint after two."""
    folder = tmp_path_factory.mktemp("finished")
    config = make_run(folder, total_steps=4, checkpoint={"every_steps": 2})
    (folder / "student" / "generation_config.json").write_text(json.dumps(GENERATION))
    run_on_ranks(2, __name__, "run_main", {"arguments": [str(config)]})
    return folder


def test_export_hf(finished: Path) -> None:
    last = start("export_hf.py", "run", "out", "--max-shard-size", "10KB", folder=finished)
    earlier = start(
        "export_hf.py", "run", "earlier", "--step", "2", "--dtype", "bf16", folder=finished
    )
    said, said_earlier = expect_success(last), expect_success(earlier)
    difference = r"reloaded logits +differ from the checkpoint's by"
    rounding = r"of which rounding of the type:"
    assert float(figure(said, difference)) == 0.0
    assert float(figure(said, rounding)) == 0.0
    assert figure(said, "checkpoint") == "run/checkpoints/step-00000004"
    assert figure(said, "exported to") == "out"
    assert float(figure(said_earlier, difference)) == 0.0
    assert float(figure(said_earlier, rounding)) > 0.0
    assert figure(said_earlier, "checkpoint") == "run/checkpoints/step-00000002"

    out = finished / "out"
    model = AutoModelForCausalLM.from_pretrained(out)
    masters = student_state_dict(finished / "run" / "checkpoints" / "step-00000004")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, masters[name]), name
    assert figure(said, "parameters") == f"{model.num_parameters():,}"
    assert len(list(out.glob("*.safetensors"))) > 1
    # Its own padded rows, neither the tokenizer's 257 nor the teacher's 264.
    assert model.config.vocab_size == 260
    assert AutoTokenizer.from_pretrained(out).eos_token == "<|end|>"
    assert json.loads((out / "generation_config.json").read_text()) == GENERATION
    model_card = (out / "README.md").read_text()
    assert 'base_model: ["student", "teacher"]' in model_card
    assert "| optimizer steps | 4 of 4 |" in model_card
    entries = (finished / "run" / "evaluations.jsonl").read_text().splitlines()
    first, final = json.loads(entries[0]), json.loads(entries[-1])
    assert "| | step 0 | step 4 |" in model_card
    assert f"| teacher kl | {first['teacher_kl']:.4f} | {final['teacher_kl']:.4f} |" in model_card
    # The step-4 evaluation says nothing about the step-2 checkpoint.
    earlier_card = (finished / "earlier" / "README.md").read_text()
    assert "| optimizer steps | 2 of 4 |" in earlier_card
    assert "step 4" not in earlier_card
    assert AutoModelForCausalLM.from_pretrained(finished / "earlier", dtype="auto").dtype == (
        torch.bfloat16
    )


def test_export_hf_refuses(finished: Path) -> None:
    absent = start("export_hf.py", "run", "other", "--step", "3", folder=finished)
    no_run = start("export_hf.py", "student", "other", folder=finished)
    expect_error(absent, r"step-00000003 cannot be exported: manifest\.json is missing")
    expect_error(no_run, r"student is not a run's folder: it holds no config\.yaml")
    assert not (finished / "other").exists()

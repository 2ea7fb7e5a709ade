"""Exporting works from any folder, from a bare clone, and refuses in one line."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from taidscale.commands.train import main
from taidscale.engine.student import student_state_dict
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
    for role in ("student", "teacher"):
        (folder / role / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    (folder / "student" / "generation_config.json").write_text(json.dumps(GENERATION))
    run_on_ranks(2, __name__, "run_main", {"arguments": [str(config)]})
    return folder


@pytest.fixture(scope="module")
def exports(finished: Path) -> tuple[str, str]:
    """What was said about `out`, the last step in several files, and `earlier`, the second."""
    last = start("export_hf.py", "run", "out", "--max-shard-size", "10KB", folder=finished)
    earlier = start(
        "export_hf.py", "run", "earlier", "--step", "2", "--dtype", "bf16", folder=finished
    )
    return expect_success(last), expect_success(earlier)


def test_export_hf(finished: Path, exports: tuple[str, str]) -> None:
    said, said_earlier = exports
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
    metadata = yaml.safe_load(model_card.split("---\n")[1])
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["base_model"] == ["student", "teacher"]
    assert metadata["base_model_relation"] == "finetune"
    assert {"taid", "distillation"} <= set(metadata["tags"])
    assert str(finished) not in model_card
    assert "| teacher | teacher | cc-by-4.0 |" in model_card
    assert re.search(r"\| train \| [\d,]+ \| by size \|", model_card)
    assert "| optimizer steps | 4 of 4 |" in model_card
    assert '| objective | taid, `{"t": {"schedule": "adaptive", "alpha": 0.05}}` |' in model_card
    assert "| hardware | 2 ranks, ZeRO stage 3, teacher over 1 |" in model_card
    assert "![t and the KL to the teacher by step](t.png)" in model_card
    assert (out / "t.png").read_bytes().startswith(b"\x89PNG")
    entries = (finished / "run" / "evaluations.jsonl").read_text().splitlines()
    first, final = json.loads(entries[0]), json.loads(entries[-1])
    assert "| | step 0 | step 4 |" in model_card.replace("|  |", "| |")
    assert f"| teacher kl | {first['teacher_kl']:.4f} | {final['teacher_kl']:.4f} |" in model_card
    # The step-4 evaluation says nothing about the step-2 checkpoint.
    earlier_card = (finished / "earlier" / "README.md").read_text()
    assert "| optimizer steps | 2 of 4 |" in earlier_card
    assert "step 4" not in earlier_card
    assert AutoModelForCausalLM.from_pretrained(finished / "earlier", dtype="auto").dtype == (
        torch.bfloat16
    )


def test_card_is_made_anew_from_the_run(finished: Path, exports: tuple[str, str]) -> None:
    """What people have written between its sections stays."""
    shutil.copytree(finished / "earlier", finished / "again")
    path = finished / "again" / "README.md"
    text = path.read_text()
    ours = text.replace("## Limits", "Ours.\n\n## Limits").replace("| seed | 0 |\n", "")
    path.write_text(ours)
    (finished / "scores.json").write_text('{"arc": 0.5}')
    options = ["--run", "run", "--evaluation", "scores.json", "--dry-run"]
    said = expect_success(start("publish.py", "again", "a/b", *options, folder=finished))
    assert re.search(r"[\da-f]{64}  t\.png", said)
    begin = "<!-- taidscale:results -->\n"
    table = "| task | metric | value |\n|---|---|---|\n| arc |  | 0.5000 |\n"
    expected = text.replace(begin, f"{begin}## Evaluation\n\n{table}")
    expected = expected.replace("## Limits", "Ours.\n\n## Limits")
    assert said.split("README.md:\n\n")[1] == expected
    assert path.read_text() == ours


def test_export_hf_refuses(finished: Path) -> None:
    absent = start("export_hf.py", "run", "other", "--step", "3", folder=finished)
    no_run = start("export_hf.py", "student", "other", folder=finished)
    expect_error(absent, r"holds no checkpoint of step 3; there are: 2, 4")
    expect_error(no_run, r"student is not a run's folder: it holds no config\.yaml")
    size = start("export_hf.py", "run", "other", "--max-shard-size", "5 GB", folder=finished)
    shutil.copytree(finished / "run", finished / "bare")
    for file in (finished / "bare" / "student").glob("*token*"):
        file.unlink()
    bare = start("export_hf.py", "bare", "other", folder=finished)
    expect_error(size, r"max_shard_size: '5 GB' is no size such as 500MB or 5GB")
    expect_error(bare, r"no tokenizer in the folder bare/student")
    assert not list(finished.glob("other*"))

"""The tools work from any folder, as files of a bare clone, and refuse in one line."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from streaming import LocalDataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from taidscale.data.shards import check_shards
from taidscale.data.tokenizer import fingerprint, load_tokenizer
from taidscale.engine.student import student_state_dict
from taidscale.train import main
from tests.ranks import run_on_ranks
from tests.runs import VOCAB_SIZE, make_run
from tests.tiny_models import save_byte_tokenizer

TOOLS = Path(__file__).parents[2] / "tools"
TEXTS = (["one two", "", "three"], ["four five six", "seven"])
GENERATION = {"temperature": 0.25, "do_sample": True}


def start(tool: str, *arguments: str, folder: Path) -> "subprocess.Popen[str]":
    """A tool in another working directory, which finds the package by itself."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        [sys.executable, str(TOOLS / tool), *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def expect_success(tool: "subprocess.Popen[str]") -> str:
    out, errors = tool.communicate(timeout=120)
    assert tool.returncode == 0, errors
    return out


def expect_error(tool: "subprocess.Popen[str]", says: str) -> None:
    out, errors = tool.communicate(timeout=120)
    assert tool.returncode == 2, errors
    assert "Traceback" not in errors
    assert out == ""
    # A progress bar may stand before it, and libraries may warn.
    lines = [line for line in re.split(r"[\r\n]+", errors) if line.startswith("error: ")]
    assert len(lines) == 1, errors
    assert errors.rstrip("\n").endswith(lines[0]), errors
    assert re.search(says, lines[0]), lines[0]


# --- prepare_data ---------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two JSONL files, one of them packed, and a tokenizer."""
    plain, packed = ("".join(json.dumps({"text": t}) + "\n" for t in texts) for texts in TEXTS)
    (tmp_path / "a.jsonl").write_text(plain)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(packed.encode()))
    save_byte_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "no-tokenizer").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "precious").write_text("do not lose me")
    return tmp_path


def test_prepare_data(corpus: Path) -> None:
    options = ["--tokenizer", "tokenizer", "--seq-len", "4", "--out", "shards"]
    said = expect_success(
        start("prepare_data.py", "a.jsonl", "b.jsonl.gz", *options, folder=corpus)
    )
    tokenizer = load_tokenizer(str(corpus / "tokenizer"))
    manifest = check_shards(
        corpus / "shards",
        seq_len=4,
        fingerprint=fingerprint(tokenizer.vocabulary()),
        vocab_size=VOCAB_SIZE,
    )
    ids = []
    for text in [*TEXTS[0], *TEXTS[1]]:
        if text:
            ids += [*tokenizer.encode_batch([text])[0], tokenizer.separator_id]
    assert manifest.num_tokens == len(ids) == sum(len(t) + 1 for ts in TEXTS for t in ts if t)
    assert manifest.num_documents == 4
    assert manifest.sources == ["a.jsonl", "b.jsonl.gz"]
    samples = LocalDataset(str(corpus / "shards"))
    assert samples.size == manifest.num_samples == (len(ids) - 1) // 4
    for number in range(samples.size):
        assert samples[number]["tokens"].tolist() == ids[4 * number : 4 * number + 5]
    figures = dict(re.split(r"\s{2,}| (?=[^ ]+$)", line, maxsplit=1) for line in said.splitlines())
    assert figures["path"] == "shards"
    assert re.search(r"documents +4 \(1 empty ones skipped\)", said)
    assert re.search(rf"tokens +{len(ids)}\n", said)


def test_prepare_data_refuses(corpus: Path) -> None:
    def prepare(
        source: str, *more: str, tokenizer: str = "tokenizer", out: str = "shards"
    ) -> "subprocess.Popen[str]":
        options = ["--tokenizer", tokenizer, "--seq-len", "4", "--out", out, *more]
        return start("prepare_data.py", source, *options, folder=corpus)

    # Two at a time; each spends its time on imports.
    for pair in (
        [
            (
                prepare("a.jsonl", "--text-column", "content"),
                r"a\.jsonl, line 1: no column 'content'; choose the text column among text",
            ),
            (prepare("c.jsonl"), r"no file matches c\.jsonl"),
        ],
        [
            (
                prepare("a.jsonl", tokenizer="./no-tokenizer"),
                r"no tokenizer in the folder \./no-tokenizer",
            ),
            (prepare("a.jsonl", out="used"), r"used exists already"),
        ],
    ):
        for tool, says in pair:
            expect_error(tool, says)
    assert not (corpus / "shards").exists()
    assert not list(corpus.glob("*.partial"))
    assert (corpus / "used" / "precious").read_text() == "do not lose me"


# --- export_hf ------------------------------------------------------------------------


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

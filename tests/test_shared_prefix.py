"""Runs whose teacher and student share only the leading ids of their vocabularies."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from taidscale.commands.export import main as export
from taidscale.config.load import load_config
from taidscale.corpus.in_memory import write_shards
from taidscale.data.batches import MicroBatch
from taidscale.data.tokenizer import load_tokenizer
from taidscale.engine.runtime import start_ranks
from taidscale.losses.fused_head import fused_head
from taidscale.losses.head_settings import HeadSettings
from taidscale.losses.objective import Objective
from taidscale.losses.objectives.taid import Taid
from taidscale.losses.vocabulary import Vocabulary
from taidscale.run.preflight import prepare
from taidscale.teachers.open import open_teacher
from tests.ranks import run_on_ranks
from tests.runs import SEQ_LEN, VOCAB_SIZE, make_run, read_lines
from tests.test_bad_input import refuse
from tests.tiny_models import add_tokens

OF_TEACHER = ("<|a|>", "<|b|>", "<|c|>")
OF_STUDENT = ("<|x|>", "<|y|>")
SHARED = "teacher.vocabulary=shared_prefix"


def save_without_them(teacher: Path, out: Path) -> None:
    """The same teacher with neither the added tokens nor their rows."""
    model = AutoModelForCausalLM.from_pretrained(teacher)
    model.resize_token_embeddings(VOCAB_SIZE)
    model.save_pretrained(out)
    for file in teacher.glob("*token*"):
        shutil.copy(file, out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its teacher with tokens of its own, and `bare`, the same one without them."""
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, total_steps=3, evaluation={"data": str(folder / "held-out"), "every_steps": 3})
    save_without_them(folder / "teacher", folder / "bare")
    add_tokens(folder / "teacher", OF_TEACHER)
    return folder


def teachers(made: Path) -> list[list[str]]:
    """Settings for the one with tokens of its own, and for the one without."""
    return [[SHARED], [f"teacher.model={made / 'bare'}"]]


# --- more entries change nothing ------------------------------------------------------


@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_loss_and_gradients_to_the_bit(made: Path, tp_size: int) -> None:
    run_on_ranks(tp_size, __name__, compare_losses.__name__, {"made": made})


def compare_losses(made: Path) -> None:
    """On each rank: both teachers give the loss, its sums and all gradients alike."""
    grid = start_ranks(dist.get_world_size(), seed=0)
    found = []
    for settings in teachers(made):
        tp_size = f"teacher.tp_size={grid.world_size}"
        config = load_config(made / "run.yaml", ["global_batch_size=8", tp_size, *settings])
        prepared = prepare(config)
        assert prepared.vocabulary.size == VOCAB_SIZE
        vocabulary = Vocabulary.split(prepared.vocabulary.size, grid.tp_rank, grid.tp_size)
        teacher = open_teacher(config, prepared.teacher, prepared.teacher_folder, vocabulary, grid)
        assert teacher is not None
        draw = torch.Generator().manual_seed(grid.rank)
        ids, labels = torch.randint(VOCAB_SIZE, (2, 3, SEQ_LEN), generator=draw)
        hidden = torch.randn(ids.numel(), 16, generator=draw, requires_grad=True)
        weight = torch.randn(260, 16, generator=torch.Generator().manual_seed(9))
        weight.requires_grad_()
        total, sums = fused_head(
            hidden,
            weight,
            labels.flatten(),
            teacher(MicroBatch(ids, labels)),
            Objective(Taid(0.4), 1.5, 0.3),
            HeadSettings(vocabulary, grid.tp_group),
            with_agreement=True,
        )
        total.backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        assert weight.grad[:VOCAB_SIZE].any()
        assert not weight.grad[VOCAB_SIZE:].any()
        found.append({**sums, "total": total.detach(), "d": hidden.grad, "d weight": weight.grad})
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_runs_to_the_bit(made: Path, tmp_path: Path) -> None:
    """With evaluation, on two ranks that share the teacher."""
    for number, settings in enumerate(teachers(made)):
        folder = tmp_path / str(number)
        arguments = [str(made / "run.yaml"), f"run_dir={folder}", "teacher.tp_size=2", *settings]
        train(arguments, world_size=2)
        assert export([str(folder), str(folder / "exported")]) == 0
    for file in ("metrics.jsonl", "evaluations.jsonl"):
        assert read_lines(tmp_path / "0" / file) == read_lines(tmp_path / "1" / file)
    first, second = (load_weights(tmp_path / name / "exported") for name in "01")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    said = [(tmp_path / name / "events.jsonl").read_text() for name in "01"]
    assert "share the first 257 ids" in said[0]
    assert "3 of the teacher ('<|a|>' 257, '<|b|>' 258, '<|c|>' 259)" in said[0]
    assert "share the first" not in said[1]


def train(arguments: list[str], world_size: int = 1) -> None:
    run_on_ranks(world_size, "tests.runs", "train_quietly", {"arguments": arguments})


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


# --- a student with tokens of its own -------------------------------------------------


def make_wider_student(folder: Path, documents: list[str], **data: Any) -> None:
    """A run whose student has two tokens that the teacher lacks, and three the other way round."""
    make_run(folder, total_steps=3)
    add_tokens(folder / "teacher", OF_TEACHER)
    add_tokens(folder / "student", OF_STUDENT)
    tokenizer = load_tokenizer(str(folder / "student"))
    for name, texts in (("train", documents), ("held-out", ["something else to read"] * 3)):
        shutil.rmtree(folder / name)
        write_shards(texts, tokenizer, SEQ_LEN, folder / name, **data)


PLAIN = [f"document {number} of those to learn from" for number in range(40)]


@pytest.fixture(scope="module")
def wider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wider")
    make_wider_student(folder, PLAIN)
    return folder


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_export_keeps_the_students_vocabulary(
    wider: Path, tmp_path: Path, weight_decay: float
) -> None:
    """Rows of the others have no gradient, not of cross entropy either: weight decay remains."""
    settings = [f"run_dir={tmp_path / 'run'}", f"optimizer.weight_decay={weight_decay}"]
    settings += ["loss.cross_entropy_weight=0.5", "optimizer.gradient_clipping=0"]
    train([str(wider / "run.yaml"), SHARED, *settings])
    assert export([str(tmp_path / "run"), str(tmp_path / "out"), "--dtype", "fp32"]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(wider / "student").get_vocab()
    assert tokenizer.convert_tokens_to_ids([*OF_STUDENT]) == [257, 258]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 260
    before, after = (
        load_weights(folder)["model.embed_tokens.weight"]
        for folder in (wider / "student", tmp_path / "out")
    )
    rates = [line["learning_rate"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    for rate in rates:
        before = before * (1 - rate * weight_decay)
    assert not torch.allclose(before[:VOCAB_SIZE], after[:VOCAB_SIZE], atol=1e-4)
    atol = 0.0 if weight_decay == 0.0 else 1e-7
    torch.testing.assert_close(before[VOCAB_SIZE:], after[VOCAB_SIZE:], atol=atol, rtol=0.0)


def test_equal_is_the_default(wider: Path) -> None:
    says = r"differ in 5 entries: .*behind the first 257 ids: set teacher\.vocabulary to shared_pre"
    refuse(wider, says=says)


def test_a_document_with_a_token_that_the_teacher_lacks(tmp_path: Path) -> None:
    documents = [*PLAIN[:20], "now <|y|> comes", *PLAIN[20:]]
    make_wider_student(tmp_path, documents)
    says = r"data of step \d+: .*stream, shard, sample \(0, 0, \d+\): token \d+ is '<\|y\|>' "
    arguments = [str(tmp_path / "run.yaml"), SHARED, "total_steps=50", "checkpoint.every_steps=50"]
    params = {"arguments": arguments, "pattern": says}
    run_on_ranks(1, "tests.test_bad_input", "expect_error", params)


def test_held_out_data_with_such_a_token(wider: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(wider / "student"))
    write_shards(["text <|x|> with such a token"] * 3, tokenizer, SEQ_LEN, tmp_path / "marked")
    says = r"marked: stream, shard, sample \(0, 0, \d\): token \d+ is '<\|x\|>' \(id 257\)"
    data = [f"evaluation.data={tmp_path / 'marked'}", "evaluation.at_start=true"]
    refuse(wider, SHARED, *data, f"run_dir={tmp_path / 'run'}", says=says)


def test_separators_that_the_teacher_lacks(tmp_path: Path) -> None:
    make_wider_student(tmp_path, PLAIN, separator_id=258)
    says = r"data\.streams\.0: '<\|y\|>' \(id 258\) stands between documents.*--separator-id"
    refuse(tmp_path, SHARED, says=says)


def test_data_made_with_the_teachers_tokenizer(wider: Path, tmp_path: Path) -> None:
    """They are compared with the student's entries, all of them; ids of added tokens differ."""
    write_shards(PLAIN, load_tokenizer(str(wider / "teacher")), SEQ_LEN, tmp_path / "data")
    says = r"data\.streams\.0: .* was made with another tokenizer \(.*teacher, fingerprint"
    refuse(wider, SHARED, f"data.streams=[{{local: {tmp_path / 'data'}}}]", says=says)

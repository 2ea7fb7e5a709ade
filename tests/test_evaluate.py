"""An evaluation counts every held-out token once, on any number of ranks."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from streaming import LocalDataset
from transformers import AutoModelForCausalLM

from taidscale.config.load import load_config
from taidscale.engine.runtime import start_ranks
from taidscale.engine.student import Student
from taidscale.evaluate import FIGURES, evaluate, open_held_out
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.run.preflight import prepare
from taidscale.teachers.open import open_teacher
from tests.ranks import on_ranks, run_on_ranks
from tests.runs import SEQ_LEN, VOCAB_SIZE, make_run

BATCH_SIZE = 5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration of a run, and in `expected.pt` what its evaluation must give."""
    folder = tmp_path_factory.mktemp("run")
    path = make_run(folder, micro_batch_size=BATCH_SIZE, global_batch_size=4 * BATCH_SIZE)
    make_student_resemble_teacher(folder)
    torch.save(evaluate_densely(folder), folder / "expected.pt")
    return path


def make_student_resemble_teacher(folder: Path) -> None:
    """Random models would agree on no token at all."""
    teacher = AutoModelForCausalLM.from_pretrained(folder / "teacher", dtype=torch.float32)
    student = AutoModelForCausalLM.from_pretrained(folder / "student", dtype=torch.float32)
    theirs = dict(teacher.named_parameters())
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            parameter.mul_(0.3).add_(theirs[name][: len(parameter)])
    student.save_pretrained(folder / "student", max_shard_size="20KB")


def evaluate_densely(folder: Path) -> dict[str, float]:
    """Full logits in float32 of one process, over every held-out sample."""
    samples = LocalDataset(str(folder / "held-out"))
    rows = np.stack([samples[number]["tokens"] for number in range(samples.size)])
    tokens = torch.from_numpy(rows.astype(np.int64))
    logits = {}
    for role in ("student", "teacher"):
        model = AutoModelForCausalLM.from_pretrained(folder / role, dtype=torch.float32)
        with torch.no_grad():
            logits[role] = model(tokens[:, :-1]).logits[..., :VOCAB_SIZE].flatten(0, 1)
    log_q, log_p = (logits[role].log_softmax(-1) for role in ("student", "teacher"))
    labels = tokens[:, 1:].flatten()
    figures = {
        "teacher_kl": (log_p.exp() * (log_p - log_q)).sum(-1),
        "next_token_loss": -log_q.gather(1, labels[:, None]),
        "teacher_next_token_loss": -log_p.gather(1, labels[:, None]),
        "student_entropy": -(log_q.exp() * log_q).sum(-1),
        "teacher_entropy": -(log_p.exp() * log_p).sum(-1),
        "top1_agreement": (log_q.argmax(-1) == log_p.argmax(-1)).float(),
    }
    return {name: values.double().mean().item() for name, values in figures.items()} | {
        "num_tokens": samples.size * SEQ_LEN
    }


@pytest.mark.parametrize(("world_size", "tp_size"), [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_equals_one_process_with_full_logits(run: Path, world_size: int, tp_size: int) -> None:
    run_on_ranks(world_size, __name__, "compare", {"run": run, "tp_size": tp_size})


@on_ranks(1)
def test_documents_stay_apart_where_they_do_in_training(run: Path) -> None:
    grid = start_ranks(1, seed=0)
    for attention, apart in (("within_document", True), ("across_documents", False)):
        config = load_config(run, [f"data.attention={attention}"])
        (held_out,) = open_held_out(config, prepare(config).vocabulary, grid).values()
        assert all((batch.positions is not None) == apart for batch in held_out)


def compare(run: Path, tp_size: int) -> None:
    config = load_config(run, [f"teacher.tp_size={tp_size}"])
    expected = torch.load(run.parent / "expected.pt")
    grid = start_ranks(tp_size, seed=0)
    prepared = prepare(config)
    vocabulary = Vocabulary.split(prepared.vocabulary.size, grid.tp_rank, grid.tp_size)
    teacher = open_teacher(config, prepared.teacher, prepared.teacher_folder, vocabulary, grid)
    student = Student(config, vocabulary, grid, StepClock(grid.device))
    held_out = open_held_out(config, prepared.vocabulary, grid)["held-out"]
    assert held_out.num_samples * SEQ_LEN == expected["num_tokens"]
    assert held_out.num_samples % (BATCH_SIZE * grid.world_size), "some rows must be left over"

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    figures = evaluate(student, teacher, held_out, grid)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])

    assert figures.pop("num_tokens") == expected.pop("num_tokens")
    assert figures.keys() == set(FIGURES)
    if grid.is_first:
        print({name: figures[name] - expected[name] for name in FIGURES}, flush=True)
    torch.testing.assert_close(figures, expected, rtol=0.0, atol=1e-5)
    # Figures that are equal, or zero, would hide that one stands for another.
    assert len({round(value, 3) for value in expected.values()}) == len(FIGURES)
    assert min(expected.values()) > 0.01

    again = evaluate(student, teacher, held_out, grid)
    assert {name: again[name] for name in FIGURES} == figures
    alone = evaluate(student, None, held_out, grid)
    assert alone.keys() == {"next_token_loss", "student_entropy", "num_tokens"}
    for name in ("next_token_loss", "student_entropy"):
        assert alone[name] == pytest.approx(expected[name], abs=1e-5)

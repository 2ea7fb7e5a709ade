"""Packed documents that do not see each other, against each document alone, in float32."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from taidscale.config.schema import RunConfig
from taidscale.data.batches import MicroBatch, Sample, collate
from taidscale.engine.runtime import start_ranks
from taidscale.engine.student import Student, student_state_dict
from taidscale.losses.objective import Objective
from taidscale.losses.objectives.taid import Taid
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.metrics.sums import LossSums
from taidscale.models.families import STUDENTS, attention_for, read_model_config
from taidscale.models.trunk import trunk_inputs
from taidscale.parallel.grid import Grid
from taidscale.step import count_valid
from taidscale.teachers.split import SplitTeacher
from taidscale.verification.dense import dense_losses
from tests.ranks import run_on_ranks
from tests.tiny_models import save_tiny_model

VOCABULARY, SEQ_LEN, SAMPLES = 97, 15, 8
PIECES = [[5, 1, 10], [16], [2, 7, 4], [9, 7], [1, 1, 12], [3, 3, 3, 3], [15, 1], [6]]
"""Documents of each sample of 16 tokens; what they leave is padding."""
OBJECTIVE = Objective(Taid(0.6), 1.0, 0.25)
LEARNING_RATE = 1e-2
BY_POSITION = [family for family in STUDENTS if family != "stablelm"]
"""Families whose masks transformers makes of positions."""


def make_samples() -> list[Sample]:
    """Random ids; weights of 0, 1/2 and 1."""
    chance = np.random.default_rng(0)
    samples = []
    for lengths in PIECES:
        tokens = chance.integers(0, VOCABULARY, SEQ_LEN + 1).astype(np.uint16)
        weights = chance.choice([0.0, 0.5, 1.0], SEQ_LEN + 1, p=[0.2, 0.3, 0.5])
        weights[sum(lengths) :] = 0
        documents = np.array(lengths, np.int32)
        samples.append(
            {"tokens": tokens, "documents": documents, "weights": weights.astype(np.float16)}
        )
    return samples


def make_batch(samples: list[Sample]) -> MicroBatch:
    return collate(
        samples,
        [(0, 0, number) for number in range(len(samples))],
        vocab_size=VOCABULARY,
        within_document=True,
        with_weights=True,
    )


def documents_of(sample: Sample) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tokens and weights of each document."""
    ends = np.cumsum(sample["documents"])
    starts = ends - sample["documents"]
    return [
        (
            torch.from_numpy(sample["tokens"][a:b].astype(np.int64)),
            torch.from_numpy(sample["weights"][a:b].astype(np.float32)),
        )
        for a, b in zip(starts, ends, strict=True)
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for family in STUDENTS:
        window: dict[str, Any] = {"sliding_window": 4} if family in ("gemma2", "mistral") else {}
        for role, rows, seed in (("teacher", 101, 0), ("student", 99, 1)):
            save_tiny_model(
                folder / f"{role}-{family}", family, vocab_size=rows, seed=seed, **window
            )
    return folder


def load(folder: Path) -> Any:
    attention = attention_for(read_model_config(folder, "model"), "sdpa")
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention
    )


@pytest.mark.parametrize("family", BY_POSITION)
@pytest.mark.parametrize("layout", ["sdpa", "eager", "flash_attention_2"])
def test_logits_of_a_packed_sequence_are_those_of_its_documents(
    models: Path, family: str, layout: str
) -> None:
    """`flash_attention_2`: its layout, one long row, with the attention that a CPU has."""
    model = load(models / f"student-{family}")
    if layout != "flash_attention_2":
        model.set_attn_implementation(attention_for(model.config, layout))
    samples = make_samples()
    batch = make_batch(samples)
    with torch.no_grad():
        config = copy.copy(model.config)
        config._attn_implementation = layout
        embeddings = model.get_input_embeddings()(batch.input_ids)
        packed = model(**trunk_inputs(embeddings, batch.positions, config)).logits.reshape(
            SAMPLES, SEQ_LEN, -1
        )
        plain = model(input_ids=batch.input_ids).logits
        for row, sample in enumerate(samples):
            start = 0
            for tokens, _ in documents_of(sample):
                place = slice(start, min(start + len(tokens), SEQ_LEN))
                alone = model(input_ids=tokens[None]).logits[0, : place.stop - place.start]
                torch.testing.assert_close(packed[row, place], alone, atol=2e-5, rtol=1e-5)
                start += len(tokens)
    assert (packed - plain).abs().max() > 0.1  # across documents it is something else


@pytest.mark.parametrize(("world_size", "tp_size"), [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_training_equals_documents_alone(
    models: Path, tmp_path: Path, world_size: int, tp_size: int
) -> None:
    for family in ("qwen2", "gemma2"):
        out = tmp_path / family / "step-1"
        arguments = {"models": models, "family": family, "tp_size": tp_size, "out": out}
        run_on_ranks(world_size, __name__, "compare", arguments)


def compare(models: Path, family: str, tp_size: int, out: Path) -> None:
    """On each rank: one step of the real engine; the first one compares with dense logits."""
    grid = start_ranks(tp_size, seed=0)
    samples = make_samples()
    loss, teacher_hidden = train_with_engine(models, family, grid, samples, out)
    check_teacher(models / f"teacher-{family}", grid, samples, teacher_hidden)
    if not grid.is_first:
        return
    expected_loss, expected = train_densely(models, family, samples)
    weights = student_state_dict(out)
    largest = max(float((weights[n] - p).detach().abs().max()) for n, p in expected.items())
    print(f"W={grid.world_size} T={tp_size} {family}: parameters differ by {largest:.1e}")
    assert largest < 2e-6
    assert loss == pytest.approx(expected_loss, abs=1e-6)


def train_with_engine(
    models: Path, family: str, grid: Grid, samples: list[Sample], out: Path
) -> tuple[float, torch.Tensor]:
    """Loss of a step of two micro-batches, and the teacher's hidden states of the first."""
    per_batch = SAMPLES // grid.world_size // 2
    config = RunConfig.model_validate(
        {
            "run_dir": "unused",
            "precision": "fp32",
            "total_steps": 1,
            "seq_len": SEQ_LEN,
            "micro_batch_size": per_batch,
            "global_batch_size": SAMPLES,
            "teacher": {
                "model": str(models / f"teacher-{family}"),
                "tp_size": grid.tp_size,
                "dtype": "fp32",
                "tokens_per_forward": 2 * SEQ_LEN,
            },
            "student": {
                "init": {"source": "pretrained", "model": str(models / f"student-{family}")}
            },
            "loss": {"objective": "taid", "chunk_tokens": 7},
            "optimizer": {"eps": 1e-3},
            "learning_rate": {"schedule": "constant", "peak": LEARNING_RATE},
            "data": {"streams": [{"local": "unused"}]},
            "checkpoint": {"every_steps": 1},
        }
    )
    vocabulary = Vocabulary.split(VOCABULARY, grid.tp_rank, grid.tp_size)
    assert config.teacher is not None
    folder = Path(config.teacher.model)
    architecture = read_model_config(folder, "teacher.model")
    teacher = SplitTeacher(config.teacher, architecture, folder, vocabulary, grid)
    student = Student(config, vocabulary, grid, StepClock(grid.device))
    first = 2 * per_batch * grid.rank
    starts = (first, first + per_batch)
    batches = [make_batch(samples[start : start + per_batch]) for start in starts]
    num_valid, weight = count_valid(batches, grid)
    sums, hidden = LossSums(), []
    for batch in batches:
        tokens = teacher(batch)
        hidden.append(tokens.hidden)
        total, batch_sums = student(batch, tokens, OBJECTIVE)
        student.backward(total * (grid.world_size / weight))
        sums.add(batch_sums)
    student.step(LEARNING_RATE)
    student.save(out, torch.save)
    return sums.mean_over_world(grid, num_valid, weight)["loss"], hidden[0]


def check_teacher(folder: Path, grid: Grid, samples: list[Sample], hidden: torch.Tensor) -> None:
    """Hidden states of the group's first micro-batches, against each document alone."""
    model = load(folder).model
    per_batch = SAMPLES // grid.world_size // 2
    leader = grid.rank - grid.tp_rank
    rows = [
        2 * per_batch * rank + number
        for rank in range(leader, leader + grid.tp_size)
        for number in range(per_batch)
    ]
    for row, of_row in zip(rows, hidden.reshape(len(rows), SEQ_LEN, -1), strict=True):
        start = 0
        for tokens, _ in documents_of(samples[row]):
            place = slice(start, min(start + len(tokens), SEQ_LEN))
            with torch.no_grad():
                alone = model(input_ids=tokens[None]).last_hidden_state[0]
            expected = alone[: place.stop - place.start]
            torch.testing.assert_close(of_row[place], expected, atol=2e-5, rtol=1e-5)
            start += len(tokens)


def train_densely(
    models: Path, family: str, samples: list[Sample]
) -> tuple[float, dict[str, torch.Tensor]]:
    """The same step, document by document, with full logits."""
    student, teacher = (load(models / f"{role}-{family}") for role in ("student", "teacher"))
    loss, total_weight = torch.zeros(()), 0.0
    for tokens, weights in [document for sample in samples for document in documents_of(sample)]:
        if len(tokens) == 1:  # predicts nothing
            continue
        inputs, labels, factors = tokens[None, :-1], tokens[1:], weights[1:]
        z_s = student(input_ids=inputs).logits[0, :, :VOCABULARY]
        with torch.no_grad():
            z_t = teacher(input_ids=inputs).logits[0, :, :VOCABULARY]
        loss = loss + (factors * dense_losses(OBJECTIVE, z_s, z_t, labels)).sum()
        total_weight += float(factors.sum())
    mean = loss / total_weight
    mean.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    matrices = [p for p in student.parameters() if p.ndim > 1]
    others = [p for p in student.parameters() if p.ndim == 1]
    torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
        eps=1e-3,
    ).step()
    return mean.item(), {name: p.detach() for name, p in student.named_parameters()}

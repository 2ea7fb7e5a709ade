"""A teacher of another kind, written beside the project: its logits stand in a file.

It changes no file of `losses/`, `engine/` or the training step.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from taidscale.config.schema import RunConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.runtime import start_ranks
from taidscale.engine.student import Student
from taidscale.losses.objective import Objective
from taidscale.losses.signal import TeacherSignal
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.parallel.grid import Grid
from taidscale.schedules.interpolation import t_schedule
from taidscale.schedules.progress import Progress
from taidscale.step import train_step
from taidscale.teachers.source import TeacherSource
from taidscale.verification.dense import dense_losses
from tests.ranks import run_on_ranks
from tests.tiny_models import save_tiny_model

VOCABULARY, SEQ_LEN, ROWS = 99, 12, 4


@dataclass(frozen=True)
class ConstantSignal:
    """The same logits at every token."""

    num_tokens: int
    logits: torch.Tensor
    """[v]."""

    @property
    def num_columns(self) -> int:
        return len(self.logits)

    @property
    def dtype(self) -> torch.dtype:
        return self.logits.dtype

    def write_logits(self, tokens: slice, out: torch.Tensor) -> None:
        out.copy_(self.logits.expand_as(out))

    def evidence(self, tokens: slice) -> torch.Tensor:
        return self.logits


class ConstantTeacher:
    """A distribution of next tokens, whatever stands before."""

    num_parameters = 0

    def __init__(self, path: Path, vocabulary: Vocabulary, grid: Grid) -> None:
        self._logits = load_file(path)["logits"][vocabulary.rows].to(grid.device)
        self._tp_size = grid.tp_size

    def __call__(self, batch: MicroBatch) -> TeacherSignal:
        return ConstantSignal(self._tp_size * batch.input_ids.numel(), self._logits)

    def weight_hashes(self) -> dict[str, int]:
        return {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, and the logits."""
    made = tmp_path_factory.mktemp("constant")
    save_tiny_model(made / "student", "qwen2", vocab_size=101)
    generator = torch.Generator().manual_seed(5)
    save_file({"logits": torch.randn(VOCABULARY, generator=generator)}, made / "t.safetensors")
    return made


@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_a_step_learns_from_it(folder: Path, tp_size: int) -> None:
    run_on_ranks(4, __name__, "compare", {"folder": folder, "tp_size": tp_size})


def compare(folder: Path, tp_size: int) -> None:
    grid = start_ranks(tp_size, seed=0)
    config = RunConfig.model_validate(settings(folder, tp_size))
    vocabulary = Vocabulary.split(VOCABULARY, grid.tp_rank, tp_size)
    source: TeacherSource = ConstantTeacher(folder / "t.safetensors", vocabulary, grid)
    clock = StepClock(grid.device)
    student = Student(config, vocabulary, grid, clock)
    tokens = torch.randint(
        VOCABULARY, (ROWS, SEQ_LEN + 1), generator=torch.Generator().manual_seed(1)
    )
    own = tokens[grid.rank : grid.rank + 1]
    batch = MicroBatch(own[:, :-1].contiguous(), own[:, 1:].contiguous())
    progress = Progress.at_start(t_schedule(config.loss))
    objective = Objective.at(config.loss, t=progress.t, cross_entropy_weight=0.0)
    dense = dense_step(folder, tokens, objective)
    found, num_learnt = train_step(config, progress, [batch], source, student, grid, clock)
    assert num_learnt == ROWS * SEQ_LEN
    for name, expected in dense.items():
        assert found[name] == pytest.approx(expected, rel=1e-5), name


def dense_step(folder: Path, tokens: torch.Tensor, objective: Objective) -> dict[str, float]:
    """Loss and norm of its gradient, in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder / "student", dtype=torch.float64)
    z_s = model(tokens[:, :-1]).logits[..., :VOCABULARY].flatten(0, 1)
    z_t = load_file(folder / "t.safetensors")["logits"].double().expand_as(z_s)
    loss = dense_losses(objective, z_s, z_t, tokens[:, 1:].flatten()).mean()
    loss.backward()
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    return {"loss": float(loss), "gradient_norm": float(torch.stack(norms).norm())}


def settings(folder: Path, tp_size: int) -> dict[str, Any]:
    return {
        "run_dir": "unused",
        "precision": "fp32",
        "total_steps": 4,
        "seq_len": SEQ_LEN,
        "micro_batch_size": 1,
        "global_batch_size": ROWS,
        "teacher": {"model": "unused", "tp_size": tp_size},
        "student": {"init": {"source": "pretrained", "model": str(folder / "student")}},
        "loss": {"objective": "taid", "t": {"schedule": "linear", "t_start": 0.4}},
        "learning_rate": {"schedule": "constant", "peak": 1e-3},
        "zero": {"stage": 3},
        "data": {"streams": [{"local": "unused"}]},
        "checkpoint": {"every_steps": 1},
    }

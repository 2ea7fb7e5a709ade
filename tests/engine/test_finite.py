"""A step that is not finite changes nothing, and tells where it began."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from taidscale.config.schema import RunConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.runtime import start_ranks
from taidscale.engine.student import Student
from taidscale.health.nonfinite import Sign
from taidscale.losses.objective import Objective
from taidscale.losses.objectives.taid import Taid
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.parallel.grid import Grid
from taidscale.teachers.split import SplitTeacher
from tests.ranks import run_on_ranks
from tests.tiny_models import save_tiny_model

VOCABULARY, SEQ_LEN, TP_SIZE, ROWS, MICRO_BATCH = 97, 10, 2, 4, 2
SPOILT = "model.layers.1.mlp.up_proj"


@dataclass(frozen=True)
class Setting:
    """How the student is trained."""

    stage: int
    precision: str = "fp32"
    offload: bool = False
    checkpointing: bool = False
    tied: bool = True


SETTINGS = [
    Setting(0),
    Setting(0, checkpointing=True, tied=False),
    Setting(1),
    Setting(1, "bf16"),
    Setting(1, "bf16", offload=True),
    Setting(1, offload=True),
    Setting(2),
    Setting(2, "bf16", checkpointing=True),
    Setting(2, offload=True),
    Setting(2, "bf16", offload=True),
    Setting(3, tied=False),
    Setting(3, checkpointing=True),
    Setting(3, "bf16"),
    Setting(3, "bf16", offload=True),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "teacher", "qwen2", vocab_size=101, hidden_size=24)
    for tied in (True, False):
        save_tiny_model(folder / f"student-{tied}", "qwen2", vocab_size=99, seed=1, tied=tied)
    return folder


class Training:
    """A student and its teacher on each rank."""

    def __init__(self, setting: Setting, models: Path, grid: Grid) -> None:
        config = make_config(setting, models)
        vocabulary = Vocabulary.split(VOCABULARY, grid.tp_rank, grid.tp_size)
        assert config.teacher is not None
        folder = Path(config.teacher.model)
        architecture = AutoConfig.from_pretrained(folder)
        self.grid = grid
        self.teacher = SplitTeacher(config.teacher, architecture, folder, vocabulary, grid)
        self.student = Student(config, vocabulary, grid, StepClock(grid.device))
        self.module = self.student._engine.module

    def step(self, number: int, added_loss: float = 0.0) -> float:
        """One step of two micro-batches; the gradient norm."""
        generator = torch.Generator().manual_seed(1000 * number + self.grid.rank)
        tokens = torch.randint(0, VOCABULARY, (ROWS, SEQ_LEN + 1), generator=generator)
        ids, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        for start in range(0, ROWS, MICRO_BATCH):
            batch = MicroBatch(ids[start : start + 2], labels[start : start + 2])
            total, _ = self.student(batch, self.teacher(batch), Objective(Taid(0.7)))
            self.student.backward(total / 40 + added_loss)
        return self.student.step(3e-3)

    def state(self) -> list[tuple[str, torch.Tensor]]:
        """All that a step changes: this rank's weights, masters, moments and step counts."""
        optimizer = self.student._engine.optimizer.state_dict()
        return list(tensors([optimizer, dict(self.module.named_parameters())]))

    @contextlib.contextmanager
    def spoilt_gradient(self, rank: int, micro_batch: int) -> Iterator[None]:
        """One number of what flows back into a projection is NaN, on one rank."""
        backwards = itertools.count()

        def spoil(gradient: torch.Tensor) -> torch.Tensor | None:
            if next(backwards) != micro_batch:
                return None
            spoilt = gradient.clone()
            spoilt[1, 3, 5] = math.nan
            return spoilt

        def forward_hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            if output.requires_grad:
                output.register_hook(spoil)

        yield from self._hooked(self.module.get_submodule(f"model.{SPOILT}"), forward_hook, rank)

    @contextlib.contextmanager
    def spoilt_output(self, rank: int) -> Iterator[None]:
        """One number of what a block of layer 1 computes is infinite, on one rank."""

        def forward_hook(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[0, 2, 3] = math.inf
            return output

        yield from self._hooked(self.module.model.model.layers[1].mlp, forward_hook, rank)

    @contextlib.contextmanager
    def spoilt_teacher(self, rank: int) -> Iterator[None]:
        """One number of one rank's share of the teacher is NaN."""
        weight = self.teacher._trunk.model.layers[0].mlp.down_proj.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight[0, 0] = math.nan if self.grid.rank == rank else weight[0, 0]
        yield
        weight.data.copy_(kept)

    def _hooked(self, module: nn.Module, hook: Callable[..., Any], rank: int) -> Iterator[None]:
        if self.grid.rank != rank:
            yield
            return
        handle = module.register_forward_hook(hook)
        yield
        handle.remove()


def make_config(setting: Setting, models: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run_dir": "unused",
            "precision": setting.precision,
            "total_steps": 10,
            "seq_len": SEQ_LEN,
            "micro_batch_size": MICRO_BATCH,
            "global_batch_size": 2 * ROWS,
            "teacher": {
                "model": str(models / "teacher"),
                "tp_size": TP_SIZE,
                "dtype": setting.precision,
            },
            "student": {
                "init": {"source": "pretrained", "model": str(models / f"student-{setting.tied}")},
                "gradient_checkpointing": setting.checkpointing,
            },
            "loss": {"objective": "taid", "chunk_tokens": 16},
            "learning_rate": {"schedule": "constant", "peak": 3e-3},
            "zero": {"stage": setting.stage, "offload_optimizer": setting.offload},
            "data": {"streams": [{"local": "unused"}]},
            "checkpoint": {"every_steps": 1},
        }
    )


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_bad_step_changes_nothing_and_is_traced(setting: Setting, models: Path) -> None:
    run_on_ranks(2, __name__, "spoil_steps", {"setting": setting, "models": models})


def spoil_steps(setting: Setting, models: Path) -> None:
    grid = start_ranks(TP_SIZE, seed=0)
    undisturbed = Training(setting, models, grid)
    norms = [undisturbed.step(number) for number in (0, 1)]
    expected = undisturbed.state()
    assert len(expected) > 10

    training = Training(setting, models, grid)
    assert training.step(0) == norms[0]
    with training.spoilt_gradient(rank=1, micro_batch=1):
        assert not math.isfinite(training.step(7))
    signs = training.student.signs()
    assert signs == ([Sign(1, "gradient", f"{SPOILT}.weight")] if grid.rank == 1 else [])

    with training.spoilt_output(rank=0):
        assert not math.isfinite(training.step(8))
    signs = training.student.signs()
    if grid.rank == 0:
        assert signs == [Sign(0, "student", "model.layers.1"), Sign(1, "student", "model.layers.1")]
    else:  # its share of the head sees the tokens of rank 0
        assert [sign.micro_batch for sign in signs] == [0, 1]
        assert {sign.kind for sign in signs} == {"gradient"}

    with training.spoilt_teacher(rank=1):
        assert not math.isfinite(training.step(9))
    assert training.student.signs() == [Sign(0, "teacher"), Sign(1, "teacher")]

    assert not math.isfinite(training.step(9, added_loss=math.inf))
    assert training.step(1) == norms[1]
    assert training.student.signs() == []
    for (place, tensor), (same_place, other) in zip(expected, training.state(), strict=True):
        assert place == same_place
        assert torch.equal(tensor, other), place


@pytest.mark.parametrize("setting", [SETTINGS[0], *SETTINGS[-3:]], ids=str)
def test_watching_changes_no_bit(setting: Setting, models: Path) -> None:
    run_on_ranks(2, __name__, "step_unwatched", {"setting": setting, "models": models})


def step_unwatched(setting: Setting, models: Path) -> None:
    grid = start_ranks(TP_SIZE, seed=0)
    watched, unwatched = (Training(setting, models, grid) for _ in range(2))
    for parameter in unwatched.module.parameters():
        assert len(parameter._backward_hooks) == 1
        parameter._backward_hooks.clear()
    assert [watched.step(n) for n in range(2)] == [unwatched.step(n) for n in range(2)]
    for (place, tensor), (_, other) in zip(watched.state(), unwatched.state(), strict=True):
        assert torch.equal(tensor, other), place


def tensors(entry: object, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors in a structure, with their places."""
    if isinstance(entry, torch.Tensor):
        yield place, entry
    elif isinstance(entry, dict):
        for key, value in entry.items():
            yield from tensors(value, f"{place}/{key}")
    elif isinstance(entry, list | tuple):
        for number, value in enumerate(entry):
            yield from tensors(value, f"{place}/{number}")

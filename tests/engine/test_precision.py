"""A bf16 student keeps what must stay precise; every kind of checkpoint continues exactly."""

from dataclasses import dataclass
from pathlib import Path

import deepspeed
import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from taidscale.config.schema import RunConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.runtime import start_ranks
from taidscale.engine.student import Student, student_state_dict
from taidscale.losses.objective import Objective
from taidscale.losses.objectives.taid import Taid
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.metrics.sums import LossSums
from taidscale.parallel.grid import Grid
from taidscale.teachers.split import SplitTeacher
from tests.ranks import run_on_ranks
from tests.tiny_models import save_tiny_model

VOCABULARY, SEQ_LEN, LEARNING_RATE = 97, 10, 3e-3
TP_SIZE, ROWS, MICRO_BATCH = 2, 4, 2


@dataclass(frozen=True)
class Setting:
    """How the student is trained."""

    precision: str
    stage: int
    offload: bool = False


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "teacher", "qwen2", vocab_size=101, hidden_size=24)
    save_tiny_model(folder / "student", "qwen2", vocab_size=99, seed=1)
    return folder


class Training:
    """A student and its teacher, and how to train it."""

    def __init__(self, setting: Setting, models: Path, grid: Grid) -> None:
        config = make_config(setting, models)
        vocabulary = Vocabulary.split(VOCABULARY, grid.tp_rank, grid.tp_size)
        assert config.teacher is not None
        folder = Path(config.teacher.model)
        architecture = AutoConfig.from_pretrained(folder)
        self.grid = grid
        self.teacher = SplitTeacher(config.teacher, architecture, folder, vocabulary, grid)
        self.student = Student(config, vocabulary, grid, StepClock(grid.device))

    def steps(self, numbers: range) -> list[float]:
        """The mean loss of each step, of two micro-batches."""
        losses = []
        for step in numbers:
            generator = torch.Generator().manual_seed(1000 * step + self.grid.rank)
            tokens = torch.randint(0, VOCABULARY, (ROWS, SEQ_LEN + 1), generator=generator)
            ids, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
            labels[0, : step % SEQ_LEN] = -100
            num_valid = int(self.grid.sum_over_world((labels != -100).sum()))
            sums = LossSums()
            for start in range(0, ROWS, MICRO_BATCH):
                part = slice(start, start + MICRO_BATCH)
                batch = MicroBatch(ids[part], labels[part])
                total, batch_sums = self.student(batch, self.teacher(batch), Objective(Taid(0.7)))
                self.student.backward(total * (self.grid.world_size / num_valid))
                sums.add(batch_sums)
            self.student.step(LEARNING_RATE)
            losses.append(sums.mean_over_world(self.grid, num_valid)["loss"])
        return losses


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
            "student": {"init": {"source": "pretrained", "model": str(models / "student")}},
            "loss": {"objective": "taid", "chunk_tokens": 16},
            "learning_rate": {"schedule": "constant", "peak": LEARNING_RATE},
            "zero": {"stage": setting.stage, "offload_optimizer": setting.offload},
            "data": {"streams": [{"local": "unused"}]},
            "checkpoint": {"every_steps": 1},
        }
    )


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_follows_fp32(stage: int, models: Path, tmp_path: Path) -> None:
    arguments = {"stage": stage, "models": models, "folder": tmp_path / "step-5"}
    run_on_ranks(2, __name__, "follow", arguments)


def follow(stage: int, models: Path, folder: Path) -> None:
    grid = start_ranks(TP_SIZE, seed=0)
    narrow = Training(Setting("bf16", stage), models, grid)
    unsharded = AutoModelForCausalLM.from_pretrained(models / "student", dtype=torch.float32)
    buffers = {f"model.{name}": buffer for name, buffer in unsharded.named_buffers()}
    assert any(name.endswith("inv_freq") for name in buffers)
    # In bf16 they would differ, or this test could not fail.
    assert any(not torch.equal(b, b.bfloat16().float()) for b in buffers.values())

    losses = narrow.steps(range(5))
    kept = dict(narrow.student._engine.module.named_buffers())
    assert kept.keys() == buffers.keys()
    for name, buffer in buffers.items():
        assert kept[name].dtype == torch.float32, name
        assert torch.equal(kept[name].cpu(), buffer), name
    # ZeRO-3 leaves empty parameters behind, of the type that they are gathered in.
    assert {p.dtype for p in narrow.student._engine.module.parameters()} == {torch.bfloat16}

    wide = Training(Setting("fp32", stage), models, grid).steps(range(5))
    if grid.is_first:
        print(f"stage {stage}: bf16 {losses}, fp32 {wide}", flush=True)
    assert losses != wide
    assert all(torch.isfinite(torch.tensor(losses)))
    torch.testing.assert_close(losses, wide, rtol=0.02, atol=0.0)
    # The same step again: the weights moved, by more than the tolerance.
    assert abs(narrow.steps(range(1))[0] / losses[0] - 1) > 0.04

    narrow.student.save(folder, torch.save)
    dist.barrier()
    masters = student_state_dict(folder)
    assert masters.keys() >= dict(unsharded.named_parameters()).keys()
    module = narrow.student._engine.module
    parameters = dict(module.model.named_parameters(remove_duplicate=False))
    for name, master in masters.items():
        assert master.dtype == torch.float32, name
        with deepspeed.zero.GatheredParameters([parameters[name]]):
            assert torch.equal(master.bfloat16(), parameters[name].cpu()), name
    # Not only widened: Adam's small steps are kept.
    assert any(not torch.equal(m, m.bfloat16().float()) for m in masters.values())


CONTINUED = [
    Setting("fp32", 3),
    Setting("bf16", 3),
    Setting("bf16", 2),
    Setting("bf16", 1),
    Setting("fp32", 0),
    Setting("fp32", 3, offload=True),
    Setting("bf16", 3, offload=True),
    Setting("bf16", 1, offload=True),
]


@pytest.mark.parametrize(
    "setting", CONTINUED, ids=lambda s: f"{s.precision}-{s.stage}{'-offload' * s.offload}"
)
def test_continues_bit_for_bit(setting: Setting, models: Path, tmp_path: Path) -> None:
    arguments = {"setting": setting, "models": models, "folder": tmp_path / "step-3"}
    run_on_ranks(2, __name__, "continue_training", arguments)


def continue_training(setting: Setting, models: Path, folder: Path) -> None:
    grid = start_ranks(TP_SIZE, seed=0)
    undisturbed = Training(setting, models, grid)
    first = undisturbed.steps(range(3))
    undisturbed.student.save(folder, torch.save)
    dist.barrier()
    expected = undisturbed.steps(range(3, 6))

    fresh = Training(setting, models, grid)
    assert fresh.steps(range(1)) == first[:1]  # a step that loading must undo
    fresh.student.load(folder, fresh.student.layout, step=3)
    assert fresh.steps(range(3, 6)) == expected

"""Five optimizer steps of the real engine against one process with full logits in float32."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from taidscale.config.schema import RunConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.runtime import start_ranks
from taidscale.engine.student import Student, student_state_dict
from taidscale.losses.objective import Objective
from taidscale.losses.objectives.taid import Taid
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.metrics.sums import LossSums
from taidscale.teachers.split import SplitTeacher
from taidscale.verification.dense import dense_losses
from tests.losses.dense import DIVERGENCES
from tests.ranks import run_on_ranks
from tests.tiny_models import save_tiny_model

VOCABULARY, STEPS, SEQ_LEN = 97, 5, 10
T_OF_STEP = (0.4, 0.45, 0.6, 0.9, 1.0)
LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class Setting:
    """One way of running the same training; 8 sequences a step in all of them."""

    tp_size: int = 2
    micro_batch_size: int = 1
    stage: int = 3
    offload: bool = False
    gradient_checkpointing: bool = False
    tied: bool = True
    family: str = "llama"
    divergence: str = "taid"
    temperature: float = 1.0
    cross_entropy_weight: float = 0.0
    clipping: float = 0.5

    def objective(self, step: int) -> Objective:
        """What that step minimises."""
        moving = {"taid": Taid(T_OF_STEP[step])}
        divergence = {**DIVERGENCES, **moving}[self.divergence]
        return Objective(divergence, self.temperature, self.cross_entropy_weight)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for family in ("llama", "gemma2"):
        save_tiny_model(folder / f"teacher-{family}", family, vocab_size=101, hidden_size=24)
        for tied in (True, False):
            save_tiny_model(
                folder / f"student-{family}-{tied}", family, vocab_size=99, tied=tied, seed=1
            )
    return folder


FOUR_RANKS = [
    Setting(),
    Setting(tied=False),
    Setting(tp_size=1, micro_batch_size=2),
    Setting(tp_size=4, gradient_checkpointing=True),
    Setting(stage=2),
    Setting(stage=1),
    Setting(stage=0),
    Setting(offload=True, cross_entropy_weight=0.3),
    Setting(family="gemma2", clipping=0.0),
]
TWO_RANKS = [
    Setting(micro_batch_size=4),
    Setting(tp_size=1, micro_batch_size=2),
    Setting(divergence="skew reverse kl", temperature=2.0, cross_entropy_weight=0.2),
    Setting(divergence="adaptive kl", micro_batch_size=4),
    Setting(divergence="decoupled kl", micro_batch_size=4, family="gemma2", clipping=0.0),
]
ONE_RANK = [Setting(tp_size=1, micro_batch_size=8), Setting(tp_size=1, micro_batch_size=2)]


@pytest.mark.parametrize(
    ("world_size", "settings"), [(4, FOUR_RANKS), (2, TWO_RANKS), (1, ONE_RANK)]
)
def test_equals_one_process_with_full_logits(
    world_size: int, settings: list[Setting], models: Path, tmp_path: Path
) -> None:
    for number, setting in enumerate(settings):
        arguments = {"setting": setting, "models": models, "out": tmp_path / str(number)}
        run_on_ranks(world_size, __name__, "compare", arguments)


def compare(setting: Setting, models: Path, out: Path) -> None:
    """On each rank: train with the engine; the first one compares with the reference."""
    losses, weights = train_with_engine(setting, models, out)
    if dist.get_rank() != 0:
        return
    expected_losses, expected = train_densely(setting, models)
    largest = max(float((weights[n] - p).abs().max()) for n, p in expected.items())
    moved = max(
        float((initial - expected[n]).abs().max()) for n, initial in _initial(setting, models)
    )
    print(
        f"W={dist.get_world_size()} {setting}: largest parameter difference {largest:.1e} "
        f"(they moved by up to {moved:.1e}), losses differ by "
        f"{max(abs(a - b) for a, b in zip(losses, expected_losses, strict=True)):.1e}",
        flush=True,
    )
    assert moved > 1e-2
    assert largest < 2e-6
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-6)


def make_config(setting: Setting, models: Path) -> RunConfig:
    distillation: dict[str, Any] = {
        "objective": "taid",
        "chunk_tokens": 7,
    }
    return RunConfig.model_validate(
        {
            "run_dir": "unused",
            "precision": "fp32",
            "total_steps": STEPS,
            "seq_len": SEQ_LEN,
            "micro_batch_size": setting.micro_batch_size,
            "global_batch_size": 8,
            "teacher": {
                "model": str(models / f"teacher-{setting.family}"),
                "tp_size": setting.tp_size,
                "dtype": "fp32",
            },
            "student": {
                "init": {
                    "source": "pretrained",
                    "model": str(models / f"student-{setting.family}-{setting.tied}"),
                },
                "gradient_checkpointing": setting.gradient_checkpointing,
            },
            "loss": distillation,
            # A large eps: where a gradient is almost zero, Adam would blow its rounding up
            # into a whole step.
            "optimizer": {"eps": 1e-3, "gradient_clipping": setting.clipping},
            "learning_rate": {"schedule": "constant", "peak": LEARNING_RATE},
            "zero": {"stage": setting.stage, "offload_optimizer": setting.offload},
            "data": {"streams": [{"local": "unused"}]},
            "checkpoint": {"every_steps": 1},
        }
    )


def make_step(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels [8, S] of one optimizer step, masked unevenly."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, VOCABULARY, (8, SEQ_LEN + 1), generator=generator)
    labels = tokens[:, 1:].clone()
    for row in range(8):
        labels[row, : (row * 7 + step) % SEQ_LEN] = -100
    labels[3] = -100
    return tokens[:, :-1].clone(), labels


def train_with_engine(
    setting: Setting, models: Path, out: Path
) -> tuple[list[float], dict[str, torch.Tensor]]:
    config = make_config(setting, models)
    grid = start_ranks(setting.tp_size, seed=0)
    clock = StepClock(grid.device)
    vocabulary = Vocabulary.split(VOCABULARY, grid.tp_rank, grid.tp_size)
    assert config.teacher is not None
    folder = Path(config.teacher.model)
    architecture = AutoConfig.from_pretrained(folder)
    teacher = SplitTeacher(config.teacher, architecture, folder, vocabulary, grid)
    student = Student(config, vocabulary, grid, clock)
    losses = []
    for step in range(STEPS):
        ids, labels = make_step(step)
        num_valid = int((labels != -100).sum())
        sums = LossSums()
        rows = ids.shape[0] // grid.world_size
        mine = slice(grid.rank * rows, (grid.rank + 1) * rows)
        for part in range(0, rows, setting.micro_batch_size):
            micro = slice(part, part + setting.micro_batch_size)
            batch = MicroBatch(ids[mine][micro], labels[mine][micro])
            total, batch_sums = student(batch, teacher(batch), setting.objective(step))
            student.backward(total * (grid.world_size / num_valid))
            sums.add(batch_sums)
        student.evaluate(batch, teacher(batch))
        student.step(LEARNING_RATE)
        losses.append(sums.mean_over_world(grid, num_valid)["loss"])
    student.save(out, torch.save)
    return losses, student_state_dict(out) if grid.is_first else {}


def train_densely(setting: Setting, models: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    student, teacher = _load(setting, models, "student"), _load(setting, models, "teacher")
    decayed = [p for p in student.parameters() if p.ndim > 1]
    others = [p for p in student.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
        eps=1e-3,
    )
    losses = []
    for step in range(STEPS):
        ids, labels = make_step(step)
        z_s = student(ids).logits[..., :VOCABULARY].flatten(0, 1)
        with torch.no_grad():
            z_t = teacher(ids).logits[..., :VOCABULARY].flatten(0, 1)
        tokens = dense_losses(setting.objective(step), z_s, z_t, labels.flatten())
        loss = tokens.sum() / (labels != -100).sum()
        loss.backward()
        if setting.clipping:
            torch.nn.utils.clip_grad_norm_(student.parameters(), setting.clipping)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, {name: p.detach() for name, p in student.named_parameters()}


def _load(setting: Setting, models: Path, role: str) -> PreTrainedModel:
    name = f"{role}-{setting.family}" + (f"-{setting.tied}" if role == "student" else "")
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        models / name, attn_implementation="eager" if setting.family == "gemma2" else "sdpa"
    )
    return model


def _initial(setting: Setting, models: Path) -> list[tuple[str, torch.Tensor]]:
    return [(n, p.detach()) for n, p in _load(setting, models, "student").named_parameters()]

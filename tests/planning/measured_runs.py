"""Small real runs, and the bytes of tensors that each phase of their second step holds at most."""

import gc
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from taidscale.config.schema import RunConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.runtime import start_ranks
from taidscale.engine.student import Student
from taidscale.losses.vocabulary import Vocabulary
from taidscale.models.families import read_model_config
from taidscale.parallel.grid import Grid
from taidscale.schedules.interpolation import t_schedule
from taidscale.schedules.progress import Progress
from taidscale.step import train_step
from taidscale.teachers.split import SplitTeacher
from tests.planning.live_tensors import LiveTensors, PhaseClock
from tests.tiny_models import save_tiny_model

WORLD_SIZE = 2


@dataclass(frozen=True)
class Case:
    """A run; sizes are chosen so that some part of its memory stands out."""

    name: str
    stage: int = 3
    tp_size: int = 2
    precision: str = "fp32"
    teacher_dtype: str = "fp32"
    checkpointing: bool = False
    offload: bool = False
    accumulate: int = 1
    seq_len: int = 32
    batch: int = 1
    loss: dict[str, Any] = field(default_factory=lambda: {"chunk_tokens": 16})
    tokens_per_forward: int = 16384
    reduce_dtype: str = "fp32"
    vocabulary: int = 64
    family: str = "llama"
    student: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)


def make_config(case: Case, folder: Path) -> RunConfig:
    """Its configuration; writes its models where they are not yet."""
    own = folder / case.name.replace(" ", "-")
    for role, settings in (("teacher", case.teacher), ("student", case.student)):
        if not (own / role).exists():
            sizes = {"hidden_size": 16, "num_hidden_layers": 1, "max_position_embeddings": 512}
            sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4, **settings}
            sizes["head_dim"] = sizes["hidden_size"] // sizes["num_attention_heads"]
            save_tiny_model(own / role, case.family, vocab_size=case.vocabulary, **sizes)
    return RunConfig.model_validate(
        {
            "run_dir": "unused",
            "precision": case.precision,
            "total_steps": 5,
            "seq_len": case.seq_len,
            "micro_batch_size": case.batch,
            "global_batch_size": case.batch * WORLD_SIZE * case.accumulate,
            "teacher": {
                "model": str(own / "teacher"),
                "tp_size": case.tp_size,
                "dtype": case.teacher_dtype,
                "tokens_per_forward": case.tokens_per_forward,
            },
            "student": {
                "init": {"source": "pretrained", "model": str(own / "student")},
                "gradient_checkpointing": case.checkpointing,
            },
            "loss": {"objective": "taid", **case.loss},
            "learning_rate": {"schedule": "constant", "peak": 1e-3},
            "zero": {
                "stage": case.stage,
                "offload_optimizer": case.offload,
                "reduce_dtype": case.reduce_dtype,
            },
            "data": {"streams": [{"local": "unused"}]},
            "checkpoint": {"every_steps": 1},
        }
    )


def measure(cases: list[Case], folder: Path) -> None:
    """On each rank: run them all; the first rank writes what it saw."""
    measured = {}
    for case in cases:
        grid = start_ranks(case.tp_size, seed=0)
        measured[case.name] = peaks(make_config(case, folder), case.vocabulary, grid)
        gc.collect()
    if grid.is_first:
        (folder / "measured.json").write_text(json.dumps(measured))


def peaks(config: RunConfig, vocabulary_size: int, grid: Grid) -> dict[str, int]:
    """Bytes by phase, of the second step."""
    with LiveTensors() as tensors:
        clock = PhaseClock(grid.device, tensors)
        vocabulary = Vocabulary.split(vocabulary_size, grid.tp_rank, grid.tp_size)
        assert config.teacher is not None
        folder = Path(config.teacher.model)
        architecture = read_model_config(folder, "teacher.model")
        teacher = SplitTeacher(config.teacher, architecture, folder, vocabulary, grid)
        student = Student(config, vocabulary, grid, clock)
        progress = Progress.at_start(t_schedule(config.loss))
        for _ in range(2):
            gc.collect()  # what the step before left to Python, which comes whenever it likes
            tensors.forget_peaks()
            batches = [make_batch(config, vocabulary_size) for _ in range(accumulation(config))]
            train_step(config, progress, batches, teacher, student, grid, clock)
    return dict(tensors.peaks)


def accumulation(config: RunConfig) -> int:
    return config.global_batch_size // (config.micro_batch_size * WORLD_SIZE)


def make_batch(config: RunConfig, vocabulary: int) -> MicroBatch:
    tokens = torch.randint(vocabulary, (config.micro_batch_size, config.seq_len + 1))
    return MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())

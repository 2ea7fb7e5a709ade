"""The bytes that a real teacher holds, and needs for a forward, of every family that can teach."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from taidscale.config.schema import TeacherConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.runtime import start_ranks
from taidscale.losses.vocabulary import Vocabulary
from taidscale.models.families import FAMILIES, read_model_config
from taidscale.models.shape import model_shape
from taidscale.parallel.grid import Grid
from taidscale.planning.suggestions import with_settings
from taidscale.planning.teacher import moments, shard
from taidscale.planning.workload import Workload
from taidscale.teachers.split import SplitTeacher
from tests.planning.live_tensors import LiveTensors
from tests.planning.test_plan import tinyswallow
from tests.ranks import run_on_ranks
from tests.tiny_models import save_tiny_model

WORLD_SIZE, VOCABULARY, SEQ_LEN, BATCH = 2, 264, 48, 4
SIZES = {"hidden_size": 64, "intermediate_size": 256, "head_dim": 16}
EXPERTS = {
    "qwen2_moe": {"moe_intermediate_size": 128, "shared_expert_intermediate_size": 128},
    "qwen3_moe": {"moe_intermediate_size": 128},
    "glm4_moe": {"moe_intermediate_size": 128},
    "deepseek_v3": {"moe_intermediate_size": 128},
}


def build(folder: Path, tp_size: int) -> tuple[SplitTeacher, Grid]:
    grid = start_ranks(tp_size, seed=0)
    config = TeacherConfig(model=str(folder), tp_size=tp_size, dtype="fp32")
    architecture = read_model_config(folder, "teacher.model")
    vocabulary = Vocabulary.split(VOCABULARY, grid.tp_rank, grid.tp_size)
    return SplitTeacher(config, architecture, folder, vocabulary, grid), grid


def measure(folder: Path) -> None:
    """On each rank: build them all; the first writes the bytes of each rank."""
    held = {}
    for family in FAMILIES:
        teacher, grid = build(folder / family, WORLD_SIZE)
        named = [*teacher._trunk.named_parameters(), ("", teacher._head_rows)]
        tensors = [
            t for name, t in named if "correction_bias" not in name
        ]  # no parameter of theirs
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        held[family] = grid.gather(sum(storages.values()))
    if grid.is_first:
        (folder / "held.json").write_text(json.dumps(held))


def measure_forward(folder: Path) -> None:
    """On one rank: the most bytes of a second forward, beyond what stays."""
    peaks = {}
    ids = torch.randint(VOCABULARY, (BATCH, SEQ_LEN))
    for family in FAMILIES:
        teacher, _ = build(folder / family, 1)
        teacher(MicroBatch(ids, ids))
        trunk = teacher._trunk
        with LiveTensors() as tensors:
            for tensor in (*trunk.parameters(), *trunk.buffers(), teacher._head_rows, ids):
                tensor.view(-1)
            before = tensors.live
            tensors.forget_peaks()
            teacher(MicroBatch(ids, ids))
        peaks[family] = tensors.peaks["start"] - before
    (folder / "peaks.json").write_text(json.dumps(peaks))


def planned(folder: Path, tp_size: int) -> Workload:
    settings = {"teacher.tp_size": tp_size, "teacher.dtype": "fp32", "seq_len": SEQ_LEN}
    load = with_settings(tinyswallow(8), {**settings, "micro_batch_size": BATCH // tp_size})
    assert load is not None
    teacher = model_shape(read_model_config(folder, "teacher.model"))
    student = replace(load.student, vocab_size=VOCABULARY)
    return replace(load, teacher=teacher, student=student)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        sizes = {**SIZES, **EXPERTS.get(family, {})}
        save_tiny_model(folder / family, family, vocab_size=VOCABULARY, tied=False, **sizes)
    return folder


def test_a_forward_needs_what_is_planned(models: Path) -> None:
    """Within an eighth, the experts of all families included."""
    run_on_ranks(1, "tests.planning.test_teacher_bytes", "measure_forward", {"folder": models})
    peaks = json.loads((models / "peaks.json").read_text())
    for family in FAMILIES:
        load = planned(models / family, 1)
        most = max(sum(parts.values()) for parts in moments(load))
        print(f"{family:12s} {peaks[family]:9,} {most / peaks[family] - 1:+.1%}")
        assert most == pytest.approx(peaks[family], rel=0.125), family


def test_a_rank_holds_what_is_planned(models: Path) -> None:
    """To the byte, but for biases of a head, which the plan counts whole."""
    run_on_ranks(WORLD_SIZE, "tests.planning.test_teacher_bytes", "measure", {"folder": models})
    held = json.loads((models / "held.json").read_text())
    for family in FAMILIES:
        biases = 4 * VOCABULARY if family == "phi" else 0
        share = shard(planned(models / family, WORLD_SIZE))
        assert 0 <= share - max(held[family]) <= biases, family

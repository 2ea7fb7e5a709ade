"""The bytes of each rank's share of a real teacher, of every family that can teach."""

import json
from dataclasses import replace
from pathlib import Path

from taidscale.config.schema import TeacherConfig
from taidscale.engine.runtime import start_ranks
from taidscale.losses.vocabulary import Vocabulary
from taidscale.models.families import FAMILIES, read_model_config
from taidscale.models.shape import model_shape
from taidscale.planning.suggestions import with_settings
from taidscale.planning.teacher import shard
from taidscale.planning.workload import Workload
from taidscale.teachers.split import SplitTeacher
from tests.planning.test_plan import tinyswallow
from tests.ranks import run_on_ranks
from tests.tiny_models import save_tiny_model

WORLD_SIZE, VOCABULARY = 2, 264
SIZES = {"hidden_size": 64, "intermediate_size": 256, "head_dim": 16}
EXPERTS = {
    "qwen2_moe": {"moe_intermediate_size": 128, "shared_expert_intermediate_size": 128},
    "qwen3_moe": {"moe_intermediate_size": 128},
    "glm4_moe": {"moe_intermediate_size": 128},
    "deepseek_v3": {"moe_intermediate_size": 128},
}


def measure(folder: Path) -> None:
    """On each rank: build them all; the first writes the bytes of each rank."""
    held = {}
    for family in FAMILIES:
        grid = start_ranks(WORLD_SIZE, seed=0)
        config = TeacherConfig(model=str(folder / family), tp_size=WORLD_SIZE, dtype="fp32")
        architecture = read_model_config(folder / family, "teacher.model")
        vocabulary = Vocabulary.split(VOCABULARY, grid.tp_rank, grid.tp_size)
        teacher = SplitTeacher(config, architecture, folder / family, vocabulary, grid)
        named = [*teacher._trunk.named_parameters(), ("", teacher._head_rows)]
        tensors = [
            t for name, t in named if "correction_bias" not in name
        ]  # no parameter of theirs
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        held[family] = grid.gather(sum(storages.values()))
    if grid.is_first:
        (folder / "held.json").write_text(json.dumps(held))


def planned(folder: Path) -> int:
    """Of the rank with the most."""
    load = with_settings(tinyswallow(8), {"teacher.tp_size": WORLD_SIZE, "teacher.dtype": "fp32"})
    assert isinstance(load, Workload)
    teacher = model_shape(read_model_config(folder, "teacher.model"))
    student = replace(load.student, vocab_size=VOCABULARY)
    return shard(replace(load, teacher=teacher, student=student))


def test_a_rank_holds_what_is_planned(tmp_path: Path) -> None:
    """To the byte, but for biases of a head, which the plan counts whole."""
    for family in FAMILIES:
        sizes = {**SIZES, **EXPERTS.get(family, {})}
        save_tiny_model(tmp_path / family, family, vocab_size=VOCABULARY, tied=False, **sizes)
    run_on_ranks(WORLD_SIZE, "tests.planning.test_teacher_bytes", "measure", {"folder": tmp_path})
    held = json.loads((tmp_path / "held.json").read_text())
    for family in FAMILIES:
        biases = 4 * VOCABULARY if family == "phi" else 0
        assert 0 <= planned(tmp_path / family) - max(held[family]) <= biases, family

"""A flipped bit in one rank's copy of teacher or student is found, and named."""

from pathlib import Path

import pytest
import torch

from taidscale.engine.runtime import start_ranks
from taidscale.health.copies import CopyCheck
from taidscale.parallel.grid import AgreedError
from tests.engine.test_finite import Setting, Training, models
from tests.ranks import run_on_ranks

__all__ = ["models"]  # the fixture


@pytest.mark.parametrize(
    "setting", [Setting(0), Setting(1, "bf16"), Setting(2), Setting(3), Setting(3, "bf16")], ids=str
)
def test_a_flipped_bit_is_found(setting: Setting, models: Path) -> None:
    run_on_ranks(4, __name__, "flip_bits", {"setting": setting, "models": models})


def flip_bits(setting: Setting, models: Path) -> None:
    grid = start_ranks(2, seed=0)
    training = Training(setting, models, grid)
    teacher, student = training.teacher, training.student
    copies = CopyCheck(grid)
    for step in range(3):
        copies.check(step, teacher.weight_hashes(), student.weight_hashes())
        training.step(step)
    assert len(student.weight_hashes()) > 10  # at stage 3 all parameters of so small a model

    name = "model.layers.1.mlp.down_proj.weight"
    weights = training.module.model.get_parameter(name)
    if grid.rank == 3:
        flip(weights, place=17, bit=1)
    with pytest.raises(AgreedError, match=rf"step 3: the student's {name} is corrupt on rank 3 "):
        copies.check(3, teacher.weight_hashes(), student.weight_hashes())
    if grid.rank == 3:
        flip(weights, place=17, bit=1)

    copies.check(4, teacher.weight_hashes(), student.weight_hashes())
    if grid.rank == 1:
        flip(teacher._trunk.model.layers[0].self_attn.q_proj.weight, place=5, bit=7)
    pattern = r"the teacher's model.layers.0.self_attn.q_proj.weight is corrupt on rank 1 \("
    with pytest.raises(AgreedError, match=pattern):
        copies.check(5, teacher.weight_hashes(), student.weight_hashes())


def flip(weights: torch.Tensor, place: int, bit: int) -> None:
    flat = weights.detach().view(-1).view(torch.uint8)
    flat[place * weights.element_size()] ^= 1 << bit

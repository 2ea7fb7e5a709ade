"""The weight of cross entropy in every step: shape and ends of each schedule."""

import math
from itertools import pairwise

import pytest

from taidscale.config.loss import CrossEntropyLoss, ReverseKLLoss
from taidscale.config.schedules import ConstantWeight, CrossEntropyWeight, RampWeight
from taidscale.losses.objective import CROSS_ENTROPY, Objective
from taidscale.schedules.cross_entropy import cross_entropy_weight


def weights(weight: CrossEntropyWeight, total_steps: int) -> list[float]:
    """Of every step, and what would follow the last."""
    loss = ReverseKLLoss(objective="reverse_kl", cross_entropy_weight=weight)
    return [cross_entropy_weight(loss, step, total_steps) for step in range(total_steps + 1)]


@pytest.mark.parametrize("value", [0.0, 0.3, 0.999])
def test_constant_never_moves(value: float) -> None:
    assert set(weights(ConstantWeight(schedule="constant", value=value), 50)) == {value}


def test_without_a_weight_there_is_no_cross_entropy() -> None:
    assert cross_entropy_weight(ReverseKLLoss(objective="reverse_kl"), 7, 50) == 0.0


@pytest.mark.parametrize(("start", "end"), [(0.2, 0.8), (1.0, 0.0), (0.0, 1.0)])
def test_linear_is_a_line(start: float, end: float) -> None:
    for step, value in enumerate(weights(RampWeight(schedule="linear", start=start, end=end), 40)):
        assert value == pytest.approx(start + (end - start) * step / 40, abs=1e-15)


@pytest.mark.parametrize(("start", "end"), [(0.2, 0.8), (1.0, 0.0), (0.0, 1.0)])
def test_cosine_is_half_a_turn(start: float, end: float) -> None:
    values = weights(RampWeight(schedule="cosine", start=start, end=end), 40)
    for step, value in enumerate(values):
        turned = (start + end) / 2 + (start - end) / 2 * math.cos(math.pi * step / 40)
        assert value == pytest.approx(turned, abs=1e-15)
    assert abs(values[1] - values[0]) < abs(values[21] - values[20]) / 20  # flat at its ends
    assert abs(values[40] - values[39]) < abs(values[21] - values[20]) / 20


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("start", "end"), [(0.1, 0.9), (1.0, 0.0), (0.5, 0.5)])
def test_ramp_begins_at_start_and_ends_after_the_last_step(
    schedule: str, start: float, end: float
) -> None:
    for total_steps in (1, 2, 40):
        values = weights(RampWeight(schedule=schedule, start=start, end=end), total_steps)
        assert values[0] == start
        assert values[-1] == pytest.approx(end, abs=1e-15)
        rises = [(later - earlier) * (end - start) for earlier, later in pairwise(values)]
        assert min(rises) >= 0
        assert all(0 <= value <= 1 for value in values)


def test_cross_entropy_alone_has_all_the_weight() -> None:
    loss = CrossEntropyLoss(objective="cross_entropy")
    assert {cross_entropy_weight(loss, step, 50) for step in range(50)} == {1.0}
    assert Objective.at(loss, t=0.4, cross_entropy_weight=1.0) == CROSS_ENTROPY


def test_weight_and_temperature_reach_the_objective() -> None:
    ramp = RampWeight(schedule="linear", start=0.0, end=1.0)
    loss = ReverseKLLoss(objective="reverse_kl", temperature=2.0, cross_entropy_weight=ramp)
    weight = cross_entropy_weight(loss, 10, 40)
    objective = Objective.at(loss, t=0.4, cross_entropy_weight=weight)
    assert objective.cross_entropy_weight == 0.25
    assert objective.divergence_weight == 0.75 * 4

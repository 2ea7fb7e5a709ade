"""The learning rate of every step: warm-up, shape and ends of each schedule."""

import math
from itertools import pairwise

import pytest

from taidscale.config.schema import (
    ConstantRate,
    DecayRate,
    LearningRateConfig,
    WarmupStableDecay,
)
from taidscale.schedules.learning_rate import learning_rate


def rates(config: LearningRateConfig, total_steps: int) -> list[float]:
    return [learning_rate(config, step, total_steps) for step in range(total_steps)]


ALL = [
    ConstantRate(schedule="constant", peak=0.5, warmup_steps=10),
    DecayRate(schedule="linear", peak=0.5, warmup_steps=10, final=0.1),
    DecayRate(schedule="cosine", peak=0.5, warmup_steps=10, final=0.1),
    WarmupStableDecay(schedule="wsd", peak=0.5, warmup_steps=10, decay_steps=40, final=0.1),
]


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.schedule)
def test_warm_up(config: LearningRateConfig) -> None:
    values = rates(config, 100)
    assert values[0] == pytest.approx(0.05)
    for step in range(10):
        assert values[step] == pytest.approx(0.5 * (step + 1) / 10)
    assert values[9] == values[10] == max(values) == 0.5


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.schedule)
def test_without_warm_up_the_first_step_has_the_peak(config: LearningRateConfig) -> None:
    values = rates(config.model_copy(update={"warmup_steps": 0}), 100)
    assert values[0] == max(values) == 0.5
    assert all(later <= earlier for earlier, later in pairwise(values))


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.schedule)
def test_nothing_but_warm_up(config: LearningRateConfig) -> None:
    """The last step that the configuration allows for: warmup_steps equal to total_steps."""
    if isinstance(config, WarmupStableDecay):
        config = config.model_copy(update={"decay_steps": 1, "warmup_steps": 9})
    values = rates(config, 10)
    assert values[8] == pytest.approx(0.5 if isinstance(config, WarmupStableDecay) else 0.45)
    assert values[9] == pytest.approx(0.5)


def test_constant() -> None:
    assert set(rates(ALL[0], 100)[10:]) == {0.5}


def test_linear() -> None:
    for step, value in enumerate(rates(ALL[1], 100)[10:], start=10):
        assert value == pytest.approx(0.5 - 0.4 * (step - 10) / 90)


def test_cosine() -> None:
    values = rates(ALL[2], 100)
    for step in range(10, 100):
        half_turn = math.pi * (step - 10) / 90
        assert values[step] == pytest.approx(0.3 + 0.2 * math.cos(half_turn))
    assert values[55] == pytest.approx(0.3)  # half-way between peak and final


def test_wsd_phases() -> None:
    values = rates(ALL[3], 100)
    assert set(values[10:61]) == {0.5}
    for step in range(60, 100):
        assert values[step] == pytest.approx(0.5 - 0.4 * (step - 60) / 40)


@pytest.mark.parametrize("config", ALL[1:], ids=lambda config: config.schedule)
def test_decay_ends_one_step_before_final(config: LearningRateConfig) -> None:
    values = rates(config, 100)
    assert values[99] > 0.1
    assert values[99] - 0.1 <= values[98] - values[99] + 1e-12  # less than one more step away
    to_zero = config.model_copy(update={"final": 0.0})
    assert 0 < rates(to_zero, 100)[99] < 0.02

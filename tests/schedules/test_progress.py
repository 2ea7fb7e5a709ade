"""Progress survives JSON exactly, and counts what it should."""

import json
import math
import random

import pytest

from taidscale.config.schedules import AdaptiveT, ConstantT, RampT, TSchedule
from taidscale.schedules.progress import Progress

SCHEDULES = [
    AdaptiveT(schedule="adaptive", alpha=0.013, t_start=0.1),
    AdaptiveT(schedule="adaptive", signal="kl"),
    RampT(schedule="cosine", t_start=1 / 3),
    ConstantT(schedule="constant", value=0.7),
]


def advanced(progress: Progress, schedule: TSchedule, steps: range) -> Progress:
    for step in steps:
        noise = random.Random(step)
        means = {
            "mixture_cross_entropy": 3 * math.exp(-step / 30) + noise.random() / 7,
            "mixture_kl": math.exp(-step / 30) + noise.random() / 3,
        }
        progress = progress.advance(schedule, means, num_valid=1000 + step, total_steps=80)
    return progress


def through_json(progress: Progress) -> Progress:
    return Progress.from_json(json.loads(json.dumps(progress.to_json())))


def test_at_start() -> None:
    progress = Progress.at_start(SCHEDULES[0])
    assert (progress.t, progress.step, progress.num_tokens) == (0.1, 0, 0)
    assert progress.t_state.previous_signal is None
    assert through_json(progress) == progress


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.schedule)
def test_json_round_trip_is_exact(schedule: TSchedule) -> None:
    progress = advanced(Progress.at_start(schedule), schedule, range(50))
    copy = through_json(progress)
    assert copy == progress  # floats by value: the last bit counts
    assert copy.t == progress.t_state.t
    assert copy.step == 50
    assert copy.num_tokens == 50 * 1000 + sum(range(50))
    rest = range(50, 80)
    assert advanced(copy, schedule, rest) == advanced(progress, schedule, rest)


def test_a_step_without_tokens_tells_t_nothing() -> None:
    schedule = AdaptiveT(schedule="adaptive", alpha=0.013, t_start=0.1)
    before = advanced(Progress.at_start(schedule), schedule, range(5))
    means = {"mixture_cross_entropy": 0.0, "mixture_kl": 0.0}
    after = before.advance(schedule, means, num_valid=0, total_steps=80)
    assert after.t_state.momentum == before.t_state.momentum
    assert after.t_state.previous_signal == before.t_state.previous_signal
    assert after.step == before.step + 1


def test_the_step_before_counts_for_the_line() -> None:
    """The update after step n + 1 sees n, as the published code does."""
    schedule = AdaptiveT(schedule="adaptive", alpha=1e-9, t_start=0.0)
    values = []
    progress = Progress.at_start(schedule)
    for _ in range(4):
        progress = progress.advance(schedule, {"mixture_cross_entropy": 1.0}, 1, total_steps=8)
        values.append(progress.t)
    assert values == pytest.approx([0, 1 / 8, 2 / 8, 3 / 8], abs=1e-6)


def test_advance_leaves_the_old_one_alone() -> None:
    schedule = RampT(schedule="linear", t_start=0.0)
    start = Progress.at_start(schedule)
    after = start.advance(schedule, {}, 7, total_steps=10)
    assert (start.t, start.step, start.num_tokens) == (0.0, 0, 0)
    assert (after.t, after.step, after.num_tokens) == (0.1, 1, 7)

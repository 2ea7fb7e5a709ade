"""t where a run is continued, under the same schedule or another one."""

from typing import Any

import pytest

from taidscale.config.schedules import AdaptiveT, ConstantT, RampT, TSchedule
from taidscale.schedules.interpolation import TState, advance_t, continued_t, initial_t

ADAPTIVE = AdaptiveT(schedule="adaptive")
SAVED = TState(0.62, momentum=0.01, previous_signal=2.5)


@pytest.mark.parametrize(
    ("now", "before", "same_signal", "expected"),
    [
        (ADAPTIVE, "adaptive", True, SAVED),
        (ADAPTIVE, "adaptive", False, TState(0.62, 0.01, None)),
        (AdaptiveT(schedule="adaptive", t_end=0.5), "adaptive", True, TState(0.5, 0.01, 2.5)),
        (AdaptiveT(schedule="adaptive", t_start=0.7), "adaptive", True, TState(0.7, 0.01, 2.5)),
        (ADAPTIVE, "other", True, TState(0.4 + 0.6 * 30 / 100)),
        (ConstantT(schedule="constant", value=0.8), "adaptive", True, TState(0.8)),
        (RampT(schedule="linear", t_start=0.0), "adaptive", True, TState(0.3)),
        (RampT(schedule="cosine", t_start=0.0), "other", True, TState(0.2061073738537635)),
    ],
)
def test_a_schedule_says_where_a_run_goes_on(
    now: TSchedule, before: str, same_signal: bool, expected: TState
) -> None:
    state = continued_t(
        now,
        SAVED,
        was_adaptive=before == "adaptive",
        same_signal=same_signal,
        step=30,
        total_steps=100,
    )
    assert (state.momentum, state.previous_signal) == (expected.momentum, expected.previous_signal)
    assert state.t == pytest.approx(expected.t, abs=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_an_unchanged_ramp_goes_on_to_the_bit(schedule: Any) -> None:
    ramp = RampT(schedule=schedule, t_start=0.1)
    saved = initial_t(ramp)
    for step in range(1, 98):
        saved = advance_t(ramp, saved, {}, step=step - 1, total_steps=97)
        kept = continued_t(
            ramp, saved, was_adaptive=False, same_signal=True, step=step, total_steps=97
        )
        assert kept == saved


def test_a_constant_t_is_never_that_of_a_state() -> None:
    state = advance_t(ConstantT(schedule="constant", value=0.8), SAVED, {}, step=3, total_steps=9)
    assert state == TState(0.8)

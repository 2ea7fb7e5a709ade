"""The curve of t that is drawn beside the real one."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from taidscale.config.schedules import TSchedule
from taidscale.schedules.interpolation import advance_t, expected_t, initial_t


@pytest.mark.parametrize(
    "t",
    [
        {"schedule": "adaptive", "t_start": 0.2, "alpha": 0.02},
        {"schedule": "adaptive", "alpha_times_steps": 5.0, "t_end": 0.9},
        {"schedule": "adaptive"},
        {"schedule": "linear", "t_start": 0.1},
        {"schedule": "cosine"},
        {"schedule": "exponential", "rate": 3.0},
        {"schedule": "constant", "value": 0.3},
    ],
)
def test_what_is_expected_of_t_is_what_comes_if_no_signal_improves(t: dict[str, Any]) -> None:
    schedule: TSchedule = TypeAdapter(TSchedule).validate_python(t)
    state = initial_t(schedule)
    for step in range(1, 501):
        assert expected_t(schedule, step, 500) == pytest.approx(state.t, abs=2e-3)
        means = {"mixture_cross_entropy": 2.0}
        state = advance_t(schedule, state, means, step=step - 1, total_steps=500)

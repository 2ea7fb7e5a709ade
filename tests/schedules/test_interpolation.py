"""t against the published rule, written again in plain Python, and the shape of every schedule."""

import math
import random
from itertools import pairwise
from typing import Any

import pytest

from taidscale.config.loss import CrossEntropyLoss, ForwardKLLoss, TaidLoss
from taidscale.config.schedules import AdaptiveT, ConstantT, ExponentialT, RampT, TSchedule
from taidscale.schedules.interpolation import TState, advance_t, initial_t, t_schedule


def falling(num_steps: int, seed: int) -> list[float]:
    """A noisy loss that falls from 6 to 1."""
    noise = random.Random(seed)
    return [1 + 5 * math.exp(-k / 70) + noise.gauss(0, 0.2) for k in range(num_steps)]


def means_of(cross_entropy: list[float], kl: list[float]) -> list[dict[str, float]]:
    return [
        {"mixture_cross_entropy": a, "mixture_kl": b, "teacher_kl": -1.0}
        for a, b in zip(cross_entropy, kl, strict=True)
    ]


def run(
    schedule: TSchedule, means: list[dict[str, float]], total_steps: int | None = None
) -> list[TState]:
    """The state after each optimizer step."""
    states, state = [], initial_t(schedule)
    for step, of_step in enumerate(means):
        total = total_steps or len(means)
        state = advance_t(schedule, state, of_step, step=step, total_steps=total)
        states.append(state)
    return states


def run_signal(schedule: AdaptiveT, signal: list[float], total_steps: int = 0) -> list[TState]:
    return run(schedule, means_of(signal, signal), total_steps or None)


def published_rule(
    signal: list[float],
    total_steps: int,
    *,
    alpha: float = 5e-4,
    beta: float = 0.99,
    t_start: float = 0.4,
    t_end: float = 1.0,
    gain: float = 1.0,
) -> list[tuple[float, float, str]]:
    """(t, momentum, what decided) after each step: section 3 of the design."""
    t, m, j_prev = t_start, 0.0, None
    rows = []
    for n, j in enumerate(signal):
        decided = "stored"
        if j_prev is not None:
            delta = (j_prev - j) / (j_prev + 1e-15)
            m = beta * m + (1 - beta) * delta
            t_lin = t_start + (t_end - t_start) * n / total_steps
            sigmoid = 1 / (1 + math.exp(-gain * m))
            adaptive = t + alpha * sigmoid * (1 - t)
            t = min(t_end, max(t_lin, adaptive))
            decided = "end" if t == t_end else "line" if t == t_lin else "adaptive"
        j_prev = j
        rows.append((t, m, decided))
    return rows


PARITY: list[tuple[dict[str, float], set[str]]] = [
    ({}, {"stored", "line"}),
    ({"alpha": 0.02}, {"stored", "adaptive", "line"}),
    ({"alpha": 0.05, "beta": 0.5, "t_start": 0.2, "t_end": 0.9}, {"stored", "adaptive", "end"}),
    ({"alpha": 0.02, "beta": 0.9, "momentum_gain": 300.0}, {"stored", "adaptive", "line"}),
    ({"alpha": 0.01, "t_start": 0.0, "beta": 0.0}, {"stored", "adaptive", "line"}),
]


@pytest.mark.parametrize("signal", ["cross_entropy", "kl"])
@pytest.mark.parametrize(("constants", "deciders"), PARITY)
def test_parity_over_200_steps(constants: dict[str, Any], deciders: set[str], signal: Any) -> None:
    cross_entropy, kl = falling(200, seed=1), falling(200, seed=2)
    schedule = AdaptiveT(schedule="adaptive", signal=signal, **constants)
    states = run(schedule, means_of(cross_entropy, kl))
    gain = {"gain": constants["momentum_gain"]} if "momentum_gain" in constants else {}
    plain = {name: value for name, value in constants.items() if name != "momentum_gain"}
    read = cross_entropy if signal == "cross_entropy" else kl
    rows = published_rule(read, 200, **plain, **gain)
    assert {decided for _, _, decided in rows} >= deciders  # the case shows what it should
    for step, (state, (t, m, _)) in enumerate(zip(states, rows, strict=True)):
        assert abs(state.t - t) <= 1e-15, step
        assert abs(state.momentum - m) <= 1e-15, step
        assert state.previous_signal == read[step]


def test_defaults_are_the_published_constants() -> None:
    (state, *_) = run_signal(AdaptiveT(schedule="adaptive"), [3.0])
    assert state == TState(0.4, 0.0, 3.0)
    schedule = AdaptiveT(schedule="adaptive")
    assert (schedule.step_size(10), schedule.beta, schedule.t_end) == (5e-4, 0.99, 1.0)
    assert (schedule.momentum_gain, schedule.signal) == (1.0, "cross_entropy")
    assert t_schedule(TaidLoss(objective="taid")) == schedule


def test_first_update_only_stores() -> None:
    schedule = AdaptiveT(schedule="adaptive", t_start=0.3, alpha=0.9)
    state = initial_t(schedule)
    assert state == TState(0.3, 0.0, None)
    # even in the middle of a run, where the line is far above
    state = advance_t(schedule, state, means_of([2.5], [9.0])[0], step=50, total_steps=100)
    assert state == TState(0.3, 0.0, 2.5)
    state = advance_t(schedule, state, means_of([2.5], [9.0])[0], step=51, total_steps=100)
    assert state.t == pytest.approx(0.3 + 0.7 * 0.51)


def test_t_end_is_the_bound() -> None:
    schedule = AdaptiveT(schedule="adaptive", t_start=0.2, t_end=0.6, alpha=0.5)
    values = [state.t for state in run_signal(schedule, falling(100, seed=3))]
    assert max(values) == 0.6
    assert values[-50:] == [0.6] * 50
    line = AdaptiveT(schedule="adaptive", t_start=0.2, t_end=0.6, alpha=1e-9)
    assert all(state.t <= 0.6 for state in run_signal(line, falling(100, seed=3)))


@pytest.mark.parametrize("alpha", [1e-6, 0.02, 0.9])
def test_t_never_falls(alpha: float) -> None:
    noise = random.Random(4)
    signal = [10 ** noise.uniform(-3, 3) for _ in range(300)]  # by a factor of 1,000 both ways
    schedule = AdaptiveT(schedule="adaptive", alpha=alpha, beta=0.3, momentum_gain=50.0)
    values = [state.t for state in run_signal(schedule, signal)]
    assert all(later >= earlier for earlier, later in pairwise(values))
    assert values[0] < values[-1] <= 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 1, 30])
def test_a_signal_that_is_not_finite_is_as_if_not_seen(bad: float, where: int) -> None:
    schedule = AdaptiveT(schedule="adaptive", alpha=0.05)
    signal = falling(60, seed=5)
    with_bad = run_signal(schedule, [*signal[:where], bad, *signal[where:]], 1000)
    before = with_bad[where - 1] if where else initial_t(schedule)
    assert with_bad[where] == before
    # alpha decides everywhere, so that the number of the step does not matter
    assert with_bad[where + 1 :] == run_signal(schedule, signal, 1000)[where:]


def test_a_signal_of_zero_does_no_lasting_harm() -> None:
    """At t 0 the mixture is the student: its KL is exactly 0."""
    schedule = AdaptiveT(schedule="adaptive", signal="kl", t_start=0.0, alpha=0.05)
    signal = [0.0, *falling(300, seed=6)]
    state = run_signal(schedule, signal, 10**6)[-1]
    rows = published_rule(signal[1:], 10**6, alpha=0.05, t_start=0.0)
    assert state.t == pytest.approx(rows[-1][0], rel=0.1)
    assert abs(state.momentum) < 1


def test_the_adaptive_term_decides_where_alpha_is_large() -> None:
    schedule = AdaptiveT(schedule="adaptive", alpha=0.1, momentum_gain=100.0, beta=0.9)
    total = 100_000
    states = run_signal(schedule, falling(100, seed=7), total)
    gains = set()
    for step in range(1, 100):
        before, state = states[step - 1], states[step]
        assert state.t > 0.4 + 0.6 * step / total
        gain = (state.t - before.t) / (0.1 * (1 - before.t))
        assert gain == pytest.approx(1 / (1 + math.exp(-100 * state.momentum)), rel=1e-6)
        gains.add(round(gain, 1))
    assert min(gains) < 0.5 < max(gains)  # falling signals speed it up, rising ones slow it


@pytest.mark.parametrize("t_start", [0.2, 0.4])
def test_long_runs_follow_the_known_curve(t_start: float) -> None:
    """Within 1% of 1 - (1 - t_start)·exp(-alpha·n/2), and far from the line."""
    noise = random.Random(8)
    signal = [2 * math.exp(-k / 20_000) + 1 + noise.gauss(0, 0.02) for k in range(12_001)]
    schedule = AdaptiveT(schedule="adaptive", t_start=t_start)
    total = 1_000_000
    states = run_signal(schedule, signal, total)
    for n in (500, 1000, 4000, 8000, 12_000):
        curve = 1 - (1 - t_start) * math.exp(-5e-4 * n / 2)
        assert states[n].t == pytest.approx(curve, rel=0.01)
    assert states[4000].t > t_start + 0.3
    assert all(0.4987 < 1 / (1 + math.exp(-state.momentum)) < 0.5003 for state in states)


def test_short_runs_are_linear() -> None:
    states = run_signal(AdaptiveT(schedule="adaptive"), falling(2000, seed=9))
    for n in range(1, 2000):
        assert states[n].t == pytest.approx(0.4 + 0.6 * n / 2000, abs=1e-3)


def test_alpha_times_steps() -> None:
    signal = falling(200, seed=10)
    by_product = AdaptiveT(schedule="adaptive", alpha_times_steps=4.0)
    by_alpha = AdaptiveT(schedule="adaptive", alpha=0.02)
    other = AdaptiveT(schedule="adaptive", alpha=0.03)
    assert by_product.step_size(200) == 0.02
    assert by_product.step_size(400) == 0.01
    assert run_signal(by_product, signal) == run_signal(by_alpha, signal)
    assert run_signal(by_product, signal) != run_signal(other, signal)
    # the same curve for any length
    short = [state.t for state in run_signal(by_product, [1.0] * 500)]
    long = [state.t for state in run_signal(by_product, [1.0] * 5000)]
    for part in (0.1, 0.3, 0.6):
        assert short[int(500 * part)] == pytest.approx(long[int(5000 * part)], abs=5e-3)


def test_momentum_gain() -> None:
    signal = falling(100, seed=11)
    plain = run_signal(AdaptiveT(schedule="adaptive", alpha=0.05), signal, 10**6)
    strong = run_signal(
        AdaptiveT(schedule="adaptive", alpha=0.05, momentum_gain=100.0), signal, 10**6
    )
    assert [s.momentum for s in plain] == [s.momentum for s in strong]  # t alone feels it
    growth = (strong[40].t - strong[39].t) / (1 - strong[39].t)
    assert growth == pytest.approx(0.05 / (1 + math.exp(-100 * strong[40].momentum)))
    assert abs(strong[40].t - plain[40].t) > 0.01


def t_values(schedule: TSchedule, num_steps: int) -> list[float]:
    """t before each step, and after the last."""
    means = means_of([1.0] * num_steps, [1.0] * num_steps)
    return [initial_t(schedule).t, *(state.t for state in run(schedule, means))]


@pytest.mark.parametrize(
    "schedule",
    [
        RampT(schedule="linear", t_start=0.2, t_end=0.9),
        RampT(schedule="cosine", t_start=0.2, t_end=0.9),
        ExponentialT(schedule="exponential", t_start=0.2, t_end=0.9),
    ],
    ids=lambda schedule: schedule.schedule,
)
@pytest.mark.parametrize("num_steps", [1, 7, 100])
def test_closed_forms_go_from_start_to_end(schedule: TSchedule, num_steps: int) -> None:
    values = t_values(schedule, num_steps)
    assert values[0] == 0.2
    assert values[-1] == pytest.approx(0.9, abs=1e-12)
    assert all(later >= earlier for earlier, later in pairwise(values))
    assert values[1] > values[0]


def test_closed_forms_have_their_shapes() -> None:
    line = t_values(RampT(schedule="linear", t_start=0.2, t_end=0.8), 100)
    cosine = t_values(RampT(schedule="cosine", t_start=0.2, t_end=0.8), 100)
    exponential = t_values(ExponentialT(schedule="exponential", t_start=0.2, rate=3.0), 100)
    for step in range(101):
        part = step / 100
        assert line[step] == pytest.approx(0.2 + 0.6 * part, abs=1e-12)
        assert cosine[step] == pytest.approx(0.5 - 0.3 * math.cos(math.pi * part), abs=1e-12)
        assert exponential[step] == pytest.approx(1 - 0.8 * math.exp(-3 * part), abs=1e-12)
    bounded = t_values(ExponentialT(schedule="exponential", t_end=0.7, rate=3.0), 100)
    assert max(bounded) == bounded[-1] == 0.7


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_never_moves(value: float) -> None:
    assert set(t_values(ConstantT(schedule="constant", value=value), 50)) == {value}


@pytest.mark.parametrize(
    "loss",
    [ForwardKLLoss(objective="forward_kl"), CrossEntropyLoss(objective="cross_entropy")],
)
def test_objectives_without_interpolation_keep_t_at_1(
    loss: ForwardKLLoss | CrossEntropyLoss,
) -> None:
    assert set(t_values(t_schedule(loss), 20)) == {1.0}


def test_taid_uses_its_own_schedule() -> None:
    ramp = RampT(schedule="cosine", t_start=0.1)
    assert t_schedule(TaidLoss(objective="taid", t=ramp)) == ramp

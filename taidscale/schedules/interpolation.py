"""How t, the teacher's share of the interpolation, moves.

The adaptive rule is that of TAID (arXiv:2501.16937, algorithm 1, and its published code),
applied once per optimizer step to the mean over all valid tokens of all ranks, in Python
floats (float64), so that every rank computes the same t.

Worth knowing: with the published constants sigmoid(momentum) stays within 0.4987 to 0.5003,
so t(n) is close to 1 - (1 - t_start)·exp(-alpha·n/2): 4,000 updates are its time constant.
A run shorter than that follows the linear floor instead.

What a setting says is what happens, also where a run is continued under another one:

now         t of the next step                        what the adaptive rule remembers
constant    the constant; 1 without interpolation     nothing
ramp        its value at this step of the run         nothing
adaptive    before it was adaptive: that of then,     the momentum; the signal only where it
            kept between t_start and t_end            is measured as before
            before it was anything else: the linear   nothing: its first update only stores
            floor at this step                        the signal, as in a new run
"""

import math
from dataclasses import dataclass, replace
from typing import assert_never

from taidscale.config.loss import InterpolationSection, LossConfig
from taidscale.config.schedules import AdaptiveT, ConstantT, ExponentialT, RampT, TSchedule

EPSILON = 1e-15
"""Added to the previous signal in the relative improvement, as published."""

SMALLEST_SIGNAL = 1e-8
"""Nats per token below which a relative improvement is only rounding, as of a KL at t = 0.

It would be so huge that the momentum would take the rest of the run to forget it.
"""


@dataclass(frozen=True)
class TState:
    """t, and what the adaptive rule remembers. Equal on all ranks; part of a checkpoint."""

    t: float
    momentum: float = 0.0
    previous_signal: float | None = None


def t_schedule(loss: LossConfig) -> TSchedule:
    """The schedule of an objective; those without interpolation keep t at 1."""
    if isinstance(loss, InterpolationSection):
        return loss.t
    return ConstantT(schedule="constant", value=1.0)


def initial_t(schedule: TSchedule) -> TState:
    """The state before the first optimizer step."""
    match schedule:
        case ConstantT():
            return TState(schedule.value)
        case AdaptiveT() | RampT() | ExponentialT():
            return TState(schedule.t_start)
        case _:
            assert_never(schedule)


def advance_t(
    schedule: TSchedule, state: TState, means: dict[str, float], *, step: int, total_steps: int
) -> TState:
    """The state after an optimizer step of training. Evaluation never moves t.

    Args:
        schedule: the rule.
        state: before.
        means: of this optimizer step over its valid tokens, in nats per token; the adaptive
            rule reads `mixture_cross_entropy` or `mixture_kl`.
        step: optimizer steps done before this one.
        total_steps: of the run.
    """
    match schedule:
        case ConstantT():
            return TState(schedule.value)
        case AdaptiveT():
            return _adapt(schedule, state, means[f"mixture_{schedule.signal}"], step, total_steps)
        case RampT() | ExponentialT():
            return TState(_closed_form(schedule, (step + 1) / total_steps))
        case _:
            assert_never(schedule)


def continued_t(
    schedule: TSchedule,
    saved: TState,
    *,
    was_adaptive: bool,
    same_signal: bool,
    step: int,
    total_steps: int,
) -> TState:
    """The state from which a run goes on; `saved` itself if its settings are as they were.

    Args:
        schedule: the rule from now on; the table above says what follows.
        saved: of the checkpoint.
        was_adaptive: whether the rule was adaptive then.
        same_signal: whether the adaptive rule's signal is still measured in the same way.
        step: optimizer steps done.
        total_steps: of the run.
    """
    match schedule:
        case ConstantT():
            return TState(schedule.value)
        case RampT() | ExponentialT():
            return TState(_closed_form(schedule, step / total_steps))
        case AdaptiveT() if was_adaptive:
            t = min(schedule.t_end, max(schedule.t_start, saved.t))
            return TState(t, saved.momentum, saved.previous_signal if same_signal else None)
        case AdaptiveT():
            return TState(_floor(schedule, step, total_steps))
        case _:
            assert_never(schedule)


def expected_t(schedule: TSchedule, step: int, total_steps: int) -> float:
    """t in optimizer step number `step`, from 1, as far as it is known beforehand.

    The adaptive rule's if no signal ever improves, so that sigmoid(momentum) is 1/2: the closed
    form 1 - (1 - t_start)·exp(-alpha·n/2) after n moves, or the linear floor above it. Its first
    update only remembers the signal.
    """
    if step <= 1:
        return initial_t(schedule).t
    if not isinstance(schedule, AdaptiveT):
        before = initial_t(schedule)
        return advance_t(schedule, before, {}, step=step - 2, total_steps=total_steps).t
    moves = step - 2
    decay = math.exp(-schedule.step_size(total_steps) * moves / 2)
    grown = 1 - (1 - schedule.t_start) * decay
    return min(schedule.t_end, max(_floor(schedule, moves, total_steps), grown))


def _adapt(
    schedule: AdaptiveT, state: TState, signal: float, step: int, total_steps: int
) -> TState:
    if not math.isfinite(signal):
        return state  # one bad step must not poison the momentum for good
    previous = state.previous_signal
    if previous is None or previous < SMALLEST_SIGNAL:
        return replace(state, previous_signal=signal)
    improvement = (previous - signal) / (previous + EPSILON)
    momentum = schedule.beta * state.momentum + (1 - schedule.beta) * improvement
    growth = schedule.step_size(total_steps) * _sigmoid(schedule.momentum_gain * momentum)
    floor = _floor(schedule, step, total_steps)
    t = min(schedule.t_end, max(floor, state.t + growth * (1 - state.t)))
    return TState(t, momentum, signal)


def _floor(schedule: AdaptiveT, step: int, total_steps: int) -> float:
    return schedule.t_start + (schedule.t_end - schedule.t_start) * step / total_steps


def _closed_form(schedule: RampT | ExponentialT, progress: float) -> float:
    start, end = schedule.t_start, schedule.t_end
    match schedule:
        case ExponentialT():
            return min(end, 1 - (1 - start) * math.exp(-schedule.rate * progress))
        case RampT(schedule="linear"):
            return start + (end - start) * progress
        case RampT():
            return start + (end - start) * (1 - math.cos(math.pi * progress)) / 2
        case _:
            assert_never(schedule)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

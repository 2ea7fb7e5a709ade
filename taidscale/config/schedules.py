"""How TAID's t and the weight of cross entropy move."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat

from taidscale.config.section import Fraction, Section, check

REFERENCE_ALPHA = 5e-4
"""Step size of the adaptive t in the published recipes (arXiv:2501.16937)."""


class AdaptiveT(Section):
    """TAID's rule: t follows the relative improvement of the signal."""

    schedule: Literal["adaptive"] = "adaptive"
    t_start: Fraction = 0.4
    """t at step 0."""
    t_end: Fraction = 1.0
    """Bound of t."""
    alpha: PositiveFloat | None = None
    """Step size per update; 5e-4 where neither this nor `alpha_times_steps` is set."""
    alpha_times_steps: PositiveFloat | None = None
    """alpha · total_steps: the same curve for any length of run."""
    beta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """Momentum of the relative improvement."""
    momentum_gain: PositiveFloat = 1.0
    """Factor on the momentum inside the sigmoid; the published rule has 1."""
    signal: Literal["cross_entropy", "kl"] = "cross_entropy"
    """What improves: the reference code's soft cross entropy, or the paper's KL."""

    @check
    def _one_alpha(self) -> Iterator[str]:
        if self.alpha is not None and self.alpha_times_steps is not None:
            yield "set alpha or alpha_times_steps, not both"

    @check
    def _order(self) -> Iterator[str]:
        yield from _in_order(self.t_start, self.t_end)

    def step_size(self, total_steps: int) -> float:
        """Alpha of one update in a run of `total_steps`."""
        if self.alpha_times_steps is not None:
            return self.alpha_times_steps / total_steps
        return REFERENCE_ALPHA if self.alpha is None else self.alpha


class RampT(Section):
    """t goes from `t_start` to `t_end` along a line or half a cosine."""

    schedule: Literal["linear", "cosine"]
    t_start: Fraction = 0.4
    """t at step 0."""
    t_end: Fraction = 1.0
    """t after the last step."""

    @check
    def _order(self) -> Iterator[str]:
        yield from _in_order(self.t_start, self.t_end)


class ExponentialT(Section):
    """t = min(t_end, 1 - (1 - t_start)·exp(-rate·step/total_steps))."""

    schedule: Literal["exponential"]
    t_start: Fraction = 0.4
    """t at step 0."""
    t_end: Fraction = 1.0
    """Bound of t."""
    rate: PositiveFloat = 5.0
    """Decays of 1 - t over the run; alpha·total_steps/2 resembles the adaptive rule."""

    @check
    def _order(self) -> Iterator[str]:
        yield from _in_order(self.t_start, self.t_end)


class ConstantT(Section):
    """t never moves; 1 is forward KL."""

    schedule: Literal["constant"]
    value: Fraction
    """The value of t."""


def _in_order(t_start: float, t_end: float) -> Iterator[str]:
    if t_start > t_end:
        yield f"t_start ({t_start}) must not exceed t_end ({t_end})"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _adaptive_or_constant(t: Any) -> Any:
    """The short forms: a number is constant, settings without `schedule` are adaptive."""
    if _is_number(t):
        if not 0 <= t <= 1:
            raise ValueError(f"must be from 0 to 1 (got {t})")
        return {"schedule": "constant", "value": t}
    if isinstance(t, dict):
        return t if "schedule" in t else {"schedule": "adaptive", **t}
    if not isinstance(t, AdaptiveT | RampT | ExponentialT | ConstantT):
        raise ValueError(
            "must be a number, or a schedule such as {schedule: linear, t_start: 0.4} "
            f"(got {t!r})"
        )
    return t


_TSection = Annotated[AdaptiveT | RampT | ExponentialT | ConstantT, Field(discriminator="schedule")]
TSchedule = Annotated[
    _TSection, BeforeValidator(_adaptive_or_constant, json_schema_input_type=Fraction | _TSection)
]


_BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]


class ConstantWeight(Section):
    """The weight of cross entropy stays as it is; short form: the number itself."""

    schedule: Literal["constant"]
    value: _BelowOne
    """The weight."""


class RampWeight(Section):
    """The weight of cross entropy goes from `start` to `end` along a line or half a cosine."""

    schedule: Literal["linear", "cosine"]
    start: Fraction
    """The weight at step 0."""
    end: Fraction
    """The weight after the last step."""


def _constant_by_default(weight: Any) -> Any:
    if isinstance(weight, dict | ConstantWeight | RampWeight):
        return weight
    if not _is_number(weight):
        raise ValueError(
            "must be a number, or a schedule such as {schedule: linear, start: 0.5, end: 0} "
            f"(got {weight!r})"
        )
    if not 0 <= weight < 1:
        remedy = "; cross entropy alone is objective: cross_entropy" if weight == 1 else ""
        raise ValueError(f"must be at least 0 and below 1 (got {weight}){remedy}")
    return {"schedule": "constant", "value": weight}


_WeightSection = Annotated[ConstantWeight | RampWeight, Field(discriminator="schedule")]
CrossEntropyWeight = Annotated[
    _WeightSection,
    BeforeValidator(_constant_by_default, json_schema_input_type=_BelowOne | _WeightSection),
]

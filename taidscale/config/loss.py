"""What a run minimises, and how TAID's t moves."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from taidscale.config.section import Fraction, Section

REFERENCE_ALPHA = 5e-4
"""Step size of the adaptive t in the published recipes (arXiv:2501.16937)."""


class AdaptiveT(Section):
    """TAID's rule: t follows the relative improvement of the signal."""

    schedule: Literal["adaptive"]
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

    @model_validator(mode="after")
    def _one_alpha(self) -> Self:
        if self.alpha is not None and self.alpha_times_steps is not None:
            raise ValueError("set alpha or alpha_times_steps, not both")
        _check_order(self.t_start, self.t_end)
        return self

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

    @model_validator(mode="after")
    def _order(self) -> Self:
        _check_order(self.t_start, self.t_end)
        return self


class ExponentialT(Section):
    """t = min(t_end, 1 - (1 - t_start)·exp(-rate·step/total_steps))."""

    schedule: Literal["exponential"]
    t_start: Fraction = 0.4
    """t at step 0."""
    t_end: Fraction = 1.0
    """Bound of t."""
    rate: PositiveFloat = 5.0
    """Decays of 1 - t over the run; alpha·total_steps/2 resembles the adaptive rule."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        _check_order(self.t_start, self.t_end)
        return self


class ConstantT(Section):
    """t never moves; 1 is forward KL."""

    schedule: Literal["constant"]
    value: Fraction
    """The value of t."""


def _check_order(t_start: float, t_end: float) -> None:
    if t_start > t_end:
        raise ValueError(f"t_start ({t_start}) must not exceed t_end ({t_end})")


TSchedule = Annotated[AdaptiveT | RampT | ExponentialT | ConstantT, Field(discriminator="schedule")]


class ObjectiveSection(Section):
    """What all objectives share."""

    chunk_tokens: PositiveInt = 1024
    """Tokens whose logits exist at once. Memory only: the result does not change."""


class DistillationSection(ObjectiveSection):
    """What the objectives with a teacher share."""

    temperature: PositiveFloat = 1.0
    """Divides both models' logits in the distillation term, which is scaled by its square."""
    cross_entropy_weight: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """w in (1 - w)·distillation + w·(next-token cross entropy)."""


class TaidLoss(DistillationSection):
    """KL from the interpolated distribution to the student (arXiv:2501.16937)."""

    objective: Literal["taid"]
    t: TSchedule = AdaptiveT(schedule="adaptive")
    """How the teacher's share t of the interpolation moves; `schedule` defaults to adaptive."""

    @model_validator(mode="before")
    @classmethod
    def _adaptive_by_default(cls, settings: Any) -> Any:
        match settings:
            case {"t": dict() as t} if "schedule" not in t:
                return {**settings, "t": {"schedule": "adaptive", **t}}
        return settings


class ForwardKLLoss(DistillationSection):
    """KL from the teacher to the student."""

    objective: Literal["forward_kl"]


class CrossEntropyLoss(ObjectiveSection):
    """Next-token cross entropy alone; the teacher serves evaluation only, if there is one."""

    objective: Literal["cross_entropy"]


LossConfig = Annotated[
    TaidLoss | ForwardKLLoss | CrossEntropyLoss, Field(discriminator="objective")
]

"""What a run minimises, and how TAID's t moves."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

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


TSchedule = Annotated[
    Annotated[AdaptiveT | RampT | ExponentialT | ConstantT, Field(discriminator="schedule")],
    BeforeValidator(_adaptive_or_constant),
]


class ConstantWeight(Section):
    """The weight of cross entropy stays as it is; short form: the number itself."""

    schedule: Literal["constant"]
    value: Annotated[float, Field(ge=0.0, lt=1.0)]
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


CrossEntropyWeight = Annotated[
    Annotated[ConstantWeight | RampWeight, Field(discriminator="schedule")],
    BeforeValidator(_constant_by_default),
]


class ObjectiveSection(Section):
    """What all objectives share."""

    logits_mib: PositiveInt = 1024
    """MiB of a rank for logits, of both models; decides how many tokens' logits exist at once.
    Memory and speed only: the result does not change.
    """
    chunk_tokens: PositiveInt | None = None
    """That number of tokens, where it is to be fixed."""
    kernels: bool = True
    """Use Triton's kernels on CUDA; without them PyTorch computes the same, slower."""


class DistillationSection(ObjectiveSection):
    """What the objectives with a teacher share."""

    temperature: PositiveFloat = 1.0
    """Divides both models' logits in the distillation term, which is scaled by its square."""
    cross_entropy_weight: CrossEntropyWeight = ConstantWeight(schedule="constant", value=0.0)
    """w in (1 - w)·distillation + w·(next-token cross entropy): a number, or a schedule."""


class InterpolationSection(DistillationSection):
    """What the objectives with a moving target share."""

    t: TSchedule = AdaptiveT(schedule="adaptive")
    """How the teacher's share t of the interpolation moves; `schedule` defaults to adaptive. A
    number is a constant t.
    """


class TaidLoss(InterpolationSection):
    """KL from the interpolated distribution to the student (arXiv:2501.16937)."""

    objective: Literal["taid"]


class ForwardKLLoss(DistillationSection):
    """KL from the teacher to the student (arXiv:1503.02531)."""

    objective: Literal["forward_kl"]


class ReverseKLLoss(DistillationSection):
    """KL from the student to the teacher (arXiv:2306.08543)."""

    objective: Literal["reverse_kl"]


class JensenShannonLoss(DistillationSection):
    """Generalised Jensen-Shannon divergence of GKD (arXiv:2306.13649)."""

    objective: Literal["jensen_shannon"]
    beta: Fraction = 0.5
    """The teacher's share of the mixture; 0 is forward KL, 1 reverse KL."""


Skew = Annotated[float, Field(gt=0.0, lt=1.0)]


class SkewForwardKLLoss(DistillationSection):
    """KL from the teacher to a mixture of both, of DistiLLM (arXiv:2402.03898)."""

    objective: Literal["skew_forward_kl"]
    skew: Skew = 0.1
    """The teacher's share of the mixture."""


class SkewReverseKLLoss(DistillationSection):
    """KL from the student to a mixture of both, of DistiLLM (arXiv:2402.03898)."""

    objective: Literal["skew_reverse_kl"]
    skew: Skew = 0.1
    """The student's share of the mixture."""


class TotalVariationLoss(DistillationSection):
    """Total variation distance (arXiv:2307.15190)."""

    objective: Literal["total_variation"]


class AdaptiveKLLoss(DistillationSection):
    """Forward KL by the gap in the head, reverse KL by that in the tail (arXiv:2404.02657)."""

    objective: Literal["adaptive_kl"]
    head_mass: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """The teacher's likeliest tokens that together hold this much probability are the head."""


class DecoupledKLLoss(DistillationSection):
    """The label's probability and the shape of the rest, apart (DKD, arXiv:2203.08679)."""

    objective: Literal["decoupled_kl"]
    target_weight: NonNegativeFloat = 1.0
    """Of the KL between the probabilities of label and not label."""
    non_target_weight: NonNegativeFloat = 0.5
    """Of the KL between the distributions over all tokens but the label."""

    @model_validator(mode="after")
    def _not_nothing(self) -> Self:
        if self.target_weight == self.non_target_weight == 0:
            raise ValueError("target_weight and non_target_weight are both 0: nothing to learn")
        return self


class AlphaBetaLoss(DistillationSection):
    """α-β divergence of ABKD (arXiv:2505.04560)."""

    objective: Literal["alpha_beta"]
    alpha: PositiveFloat = 0.2
    """Larger looks at what the teacher finds likely; 1 with β near 0 is forward KL."""
    beta: PositiveFloat = 0.7
    """Larger looks at what the student finds likely; 1 with α near 0 is reverse KL."""


class AlphaMixtureLoss(InterpolationSection):
    """KL from or to the α-mixture of teacher and student of AMiD (arXiv:2510.15982)."""

    objective: Literal["alpha_mixture"]
    alpha: Annotated[float, Field(ge=-9.0, le=9.0)] = 0.5
    """1 mixes logits, as TAID, -1 probabilities, as DistiLLM."""
    compare: Literal["mixture_to_student", "teacher_to_mixture"] = "mixture_to_student"
    """KL(mixture ‖ student), the mixture a constant; or KL(teacher ‖ mixture), learnt through the
    mixture.
    """

    @model_validator(mode="after")
    def _can_learn(self) -> Self:
        if self.compare == "teacher_to_mixture":
            if isinstance(self.t, AdaptiveT):
                raise ValueError(
                    "compare teacher_to_mixture has no signal that an adaptive t could follow; "
                    "set t to a number, such as 0.1, or to another schedule"
                )
            if (self.t.value if isinstance(self.t, ConstantT) else self.t.t_start) == 1.0:
                raise ValueError(
                    "compare teacher_to_mixture learns nothing at t = 1, where the mixture is the "
                    "teacher; choose a smaller t"
                )
        return self


class CrossEntropyLoss(ObjectiveSection):
    """Next-token cross entropy alone; the teacher serves evaluation only, if there is one."""

    objective: Literal["cross_entropy"]


LossConfig = Annotated[
    TaidLoss
    | ForwardKLLoss
    | ReverseKLLoss
    | JensenShannonLoss
    | SkewForwardKLLoss
    | SkewReverseKLLoss
    | TotalVariationLoss
    | AdaptiveKLLoss
    | DecoupledKLLoss
    | AlphaBetaLoss
    | AlphaMixtureLoss
    | CrossEntropyLoss,
    Field(discriminator="objective"),
]

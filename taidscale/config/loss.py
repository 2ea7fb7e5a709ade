"""What a run minimises."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from taidscale.config.schedules import (
    AdaptiveT,
    ConstantT,
    ConstantWeight,
    CrossEntropyWeight,
    TSchedule,
)
from taidscale.config.section import Fraction, Section, check


class ObjectiveSection(Section):
    """What all objectives share."""

    logits_mib: PositiveInt = 1024
    """MiB of a rank for logits, of both models; decides how many tokens' logits exist at once.

    Memory and speed only: the result does not change.
    """
    chunk_tokens: PositiveInt | None = None
    """Tokens whose logits exist at once, where their number is to be fixed."""
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
    """How the teacher's share t of the interpolation moves; a number is a constant t.

    `schedule` defaults to adaptive.
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

    @check
    def _not_nothing(self) -> Iterator[str]:
        if self.target_weight == self.non_target_weight == 0:
            yield "target_weight and non_target_weight are both 0: nothing to learn"


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
    """KL(mixture ‖ student), the mixture constant; or KL(teacher ‖ mixture), learnt through it."""

    @check
    def _can_learn(self) -> Iterator[str]:
        if self.compare == "mixture_to_student":
            return
        if isinstance(self.t, AdaptiveT):
            yield (
                "compare teacher_to_mixture has no signal that an adaptive t could follow; "
                "set t to a number, such as 0.1, or to another schedule"
            )
        elif (self.t.value if isinstance(self.t, ConstantT) else self.t.t_start) == 1.0:
            yield (
                "compare teacher_to_mixture learns nothing at t = 1, where the mixture is the "
                "teacher; choose a smaller t"
            )


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

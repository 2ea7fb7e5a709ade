"""The weight of cross entropy in the loss of an optimizer step."""

import math
from typing import assert_never

from taidscale.config.loss import CrossEntropyLoss, LossConfig
from taidscale.config.schedules import ConstantWeight, RampWeight


def cross_entropy_weight(loss: LossConfig, step: int, total_steps: int) -> float:
    """w in the step with `step` steps before it; a ramp would reach its end after the last."""
    if isinstance(loss, CrossEntropyLoss):
        return 1.0
    weight = loss.cross_entropy_weight
    match weight:
        case ConstantWeight():
            return weight.value
        case RampWeight():
            progress = step / total_steps
            if weight.schedule == "cosine":
                progress = (1 - math.cos(math.pi * progress)) / 2
            return weight.start + (weight.end - weight.start) * progress
        case _:
            assert_never(weight)

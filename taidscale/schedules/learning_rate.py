"""The learning rate of an optimizer step."""

import math
from typing import assert_never

from taidscale.config.schema import (
    ConstantRate,
    DecayRate,
    LearningRateConfig,
    WarmupStableDecay,
)


def learning_rate(config: LearningRateConfig, step: int, total_steps: int) -> float:
    """Learning rate of the optimizer step with `step` steps before it.

    Warm-up grows by peak/warmup_steps a step, so that already the first step learns, and its
    last step has the peak; a decay would reach `final` one step after the last.
    """
    if step < config.warmup_steps:
        return config.peak * (step + 1) / config.warmup_steps
    match config:
        case ConstantRate():
            return config.peak
        case DecayRate():
            progress = (step - config.warmup_steps) / (total_steps - config.warmup_steps)
            if config.schedule == "cosine":
                progress = (1 - math.cos(math.pi * progress)) / 2
        case WarmupStableDecay():
            progress = max(0.0, 1 - (total_steps - step) / config.decay_steps)
        case _:
            assert_never(config)
    return config.peak + (config.final - config.peak) * progress

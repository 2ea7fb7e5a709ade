"""How far a run has come: what the schedules depend on."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from taidscale.config.schedules import TSchedule
from taidscale.schedules.interpolation import TState, advance_t, initial_t


@dataclass(frozen=True)
class Progress:
    """Equal on all ranks; part of every checkpoint."""

    t_state: TState
    step: int = 0
    """Optimizer steps done."""
    num_tokens: int = 0
    """Valid tokens learnt from, over all ranks."""

    @classmethod
    def at_start(cls, schedule: TSchedule) -> "Progress":
        """Before the first step."""
        return cls(initial_t(schedule))

    @property
    def t(self) -> float:
        """The teacher's share of the interpolation in the next step."""
        return self.t_state.t

    def advance(
        self, schedule: TSchedule, means: dict[str, float], num_valid: int, total_steps: int
    ) -> "Progress":
        """After one more optimizer step, whose means over `num_valid` tokens were `means`.

        What t follows are means over the tokens with a weight above 0, each counting as one. A
        step without any tells it nothing.
        """
        if num_valid == 0:
            means = dict.fromkeys(means, math.nan)
        t_state = advance_t(schedule, self.t_state, means, step=self.step, total_steps=total_steps)
        return replace(
            self, t_state=t_state, step=self.step + 1, num_tokens=self.num_tokens + num_valid
        )

    def metrics(self) -> dict[str, float]:
        """What of it is reported."""
        return {
            "step": self.step,
            "num_tokens": self.num_tokens,
            "momentum": self.t_state.momentum,
        }

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint; floats survive JSON exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, entries: dict[str, Any]) -> "Progress":
        """What `to_json` gave."""
        return cls(**{**entries, "t_state": TState(**entries["t_state"])})

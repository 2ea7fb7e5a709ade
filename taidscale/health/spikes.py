"""Has the loss suddenly left the range of its last values?"""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taidscale.config.health import SpikeConfig

_MAD_TO_STANDARD_DEVIATION = 1.4826
"""Of a normal distribution."""
_LEAST_RELATIVE_DEVIATION = 1e-3
"""Of the median: losses that hardly vary are not looked at under a microscope."""


@dataclass(frozen=True)
class Spike:
    """A loss that is too far above the last ones."""

    loss: float
    median: float
    """Of the last ones."""
    deviation: float
    """Their robust standard deviation."""

    def __str__(self) -> str:
        how_far = (self.loss - self.median) / self.deviation
        return (
            f"the loss is {self.loss:.4f}, {how_far:.0f} robust standard deviations above the "
            f"median of the last ones, {self.median:.4f}"
        )


class LossSpikes:
    """Compares each loss with the last ones: their median, and the median distance from it.

    Medians are hardly moved by the spikes themselves. A loss that stays high is the new normal
    after half a window. Other data have another loss: where the mix changes, what was seen before
    is forgotten, and the first losses of the new mix are only remembered. Equal losses give equal
    answers, so that all ranks decide alike, and a resumed run like the one that was never
    interrupted.
    """

    def __init__(self, config: SpikeConfig) -> None:
        self._config = config
        self._losses: deque[float] = deque(maxlen=config.window)
        self._mix: dict[str, float] = {}

    def see(self, loss: float, mix: Mapping[str, float]) -> Spike | None:
        """Take the next step's loss; what is not finite is left to others.

        Args:
            loss: mean of the step.
            mix: its share of each stream, by name.

        Returns:
            None also while fewer than a quarter of the window, and 8, have been seen.
        """
        if mix != self._mix:
            self._losses.clear()
            self._mix = dict(mix)
        if not math.isfinite(loss):
            return None
        spike = (
            self._compare(loss) if len(self._losses) >= max(8, self._config.window // 4) else None
        )
        self._losses.append(loss)
        return spike

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint; floats survive JSON exactly."""
        return {"losses": list(self._losses), "mix": self._mix}

    def load_json(self, memory: dict[str, Any] | list[float]) -> None:
        """Continue from what `to_json` gave; of a longer window, the last part counts.

        An older version gave the losses alone, which nothing can be compared with.
        """
        if isinstance(memory, list):
            return
        self._losses = deque(memory["losses"], maxlen=self._config.window)
        self._mix = memory["mix"]

    def forget(self) -> None:
        """What comes next is not to be compared with what was seen before."""
        self._losses.clear()

    def _compare(self, loss: float) -> Spike | None:
        median = statistics.median(self._losses)
        distance = statistics.median(abs(other - median) for other in self._losses)
        least = _LEAST_RELATIVE_DEVIATION * abs(median)
        deviation = max(_MAD_TO_STANDARD_DEVIATION * distance, least, 1e-12)
        if loss - median <= self._config.deviations * deviation:
            return None
        return Spike(loss, median, deviation)

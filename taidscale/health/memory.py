"""What a run's watch has to know after a restart."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WatchMemory:
    """Part of every checkpoint; equal on all ranks."""

    skipped: dict[str, int]
    """What `SkippedSteps.to_json` gave."""
    spikes: dict[str, Any] | None
    """What `LossSpikes.to_json` gave; None where the losses cannot be compared with the next."""

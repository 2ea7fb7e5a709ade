"""Settings of what watches over a run."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from taidscale.config.section import Section


class SpikeConfig(Section):
    """A loss that suddenly leaves the range of the last ones."""

    window: Annotated[int, Field(ge=8)] = 128
    """Steps whose losses a new one is compared with."""
    deviations: PositiveFloat = 8.0
    """Robust standard deviations above the median of these from which a loss is a spike."""
    roll_back: bool = False
    """Go back to the last checkpoint, and on with the samples after the spike."""
    max_roll_backs: PositiveInt = 3
    """How often; the spike after these stops the run."""


class HealthConfig(Section):
    """What is watched while the run goes on, and when it stops by itself."""

    max_skipped_in_a_row: PositiveInt = 10
    """Steps in a row whose loss or gradient is not finite, after which the run stops."""
    spike: SpikeConfig | None = SpikeConfig()
    """None does not look for spikes."""
    hang_minutes: PositiveFloat = 30.0
    """Minutes without a step after which every rank writes its stack down, and ends.

    It is then started again.
    """
    check_every_steps: PositiveInt = 100
    """Steps between two comparisons of the ranks: copies of weights, and speed."""
    slow_rank_ratio: Annotated[float, Field(gt=1.0)] = 1.5
    """A rank that is slower than the median by this factor is named."""

"""Which steps of a run are recorded in detail."""

from collections.abc import Iterator

from pydantic import PositiveInt

from taidscale.config.section import Section, check


class ProfileConfig(Section):
    """A window of steps that torch's profiler records, operation by operation."""

    steps: tuple[PositiveInt, PositiveInt]
    """Steps from the first to the last, both recorded, such as `[10, 14]`; a few are enough."""

    @check
    def _order(self) -> Iterator[str]:
        first, last = self.steps
        if first > last:
            yield f"steps: the first ({first}) must not be after the last ({last})"

"""Who asked the run to end, and when its time is over."""

import contextlib
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What Slurm, launchers and people send; the first asks, the others change nothing."""


class StopRequest:
    """Whether this rank was asked to end; within `with`, a signal asks instead of ending it.

    Ranks hear of it at different moments, so they must agree before any of them acts.
    """

    def __init__(self, wall_clock_hours: float | None = None) -> None:
        """Count the time from now on.

        Args:
            wall_clock_hours: after which the run asks itself to end; None for never.
        """
        self._signal: signal.Signals | None = None
        self._hours = wall_clock_hours
        self._file: Path | None = None
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def reason(self) -> str | None:
        """Why the run should end, or None."""
        if self._signal is not None:
            return self._signal.name
        hours = (time.monotonic() - self._started) / 3600
        if self._hours is not None and hours >= self._hours:
            return f"wall_clock_hours: {self._hours} are over"
        if self._file is not None:
            with contextlib.suppress(OSError):  # mostly: there is none
                return self._file.read_text(encoding="utf-8", errors="replace").strip()
        return None

    def obey(self, file: Path) -> None:
        """From now on `file` asks too, from any host, once somebody makes it; it says who asks.

        One of an earlier start is removed.

        Raises:
            OSError: if it cannot be.
        """
        file.unlink(missing_ok=True)
        self._file = file

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self._signal = self._signal or signal.Signals(number)

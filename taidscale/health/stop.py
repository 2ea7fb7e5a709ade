"""Who asked the run to end, and when its time is over."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What Slurm, launchers and people send; the first asks, the others change nothing."""


WAITING_SECONDS = 20.0
"""How long a rank that is asked to end still waits for its data; launchers kill after 30."""


class WaitingEnded(BaseException):
    """This rank is asked to end and its data do not come: it cannot finish its step and save.

    No `Exception`: nothing between the signal and the end of the process shall take it for one.
    """


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
        self._waits = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._end_waiting)
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

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within it a signal ends the waiting some time later; the main thread enters it.

        Raises:
            WaitingEnded: then.
        """
        self._waits = True
        if self._signal is not None:
            signal.setitimer(signal.ITIMER_REAL, WAITING_SECONDS)
        try:
            yield
        finally:
            self._waits = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is None and self._waits:
            signal.setitimer(signal.ITIMER_REAL, WAITING_SECONDS)
        self._signal = self._signal or signal.Signals(number)

    def _end_waiting(self, _number: int, _frame: FrameType | None) -> None:
        if self._waits and self._signal is not None:
            raise WaitingEnded(
                f"{self._signal.name}: the data of the next step did not come for "
                f"{WAITING_SECONDS:.0f} s; ended without saving"
            )

"""Where the seconds of a step go."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StepClock:
    """Adds up the seconds of named sections between two calls of `take`.

    On a GPU it records events in the stream, so that timing does not make it wait; they are
    read once a step.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._started = time.perf_counter()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Count what happens inside as `name`."""
        if self._on_gpu:
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            stop = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record()
            yield
            stop.record()
            self._events.append((name, start, stop))
        else:
            started = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - started

    @contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Count time in which the host itself is blocked, on a GPU machine too."""
        started = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - started

    def take(self) -> dict[str, float]:
        """Seconds of each section as `NAME_seconds`, and of all as `step_seconds`; starts anew."""
        if self._events:
            torch.cuda.synchronize()
        for name, start, stop in self._events:
            self._seconds[name] += start.elapsed_time(stop) / 1000
        now = time.perf_counter()
        seconds = {f"{name}_seconds": value for name, value in self._seconds.items()}
        seconds["step_seconds"] = now - self._started
        self._started, self._events = now, []
        self._seconds.clear()
        return seconds

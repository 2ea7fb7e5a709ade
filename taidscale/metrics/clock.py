"""Where the seconds and the memory of a step go."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


class StepClock:
    """Adds up the seconds of named sections of a step.

    On a GPU it records events in the stream, so that timing does not make it wait; they are
    read once a step.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
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

    def start_step(self) -> None:
        """Forget what was counted, and count anew from here."""
        self._events = []
        self._seconds.clear()
        self._started = time.perf_counter()

    def end_step(self, num_tokens: int) -> dict[str, float]:
        """Seconds of each section and of the whole step, tokens per second, peak memory.

        Args:
            num_tokens: that the step learnt from, over all ranks.
        """
        if self._events:
            torch.cuda.synchronize()
        for name, start, stop in self._events:
            self._seconds[name] += start.elapsed_time(stop) / 1000
        step_seconds = time.perf_counter() - self._started
        return {
            **{f"{name}_seconds": value for name, value in self._seconds.items()},
            "step_seconds": step_seconds,
            "tokens_per_second": num_tokens / step_seconds,
            "peak_memory_gib": _peak_memory_gib(self._device),
        }


def _peak_memory_gib(device: torch.device) -> float:
    """Largest memory of this process so far, in GiB: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    return 0.0

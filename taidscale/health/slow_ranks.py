"""Which rank keeps the others waiting?

The seconds of a step cannot tell: all ranks meet in every collective, so that a step takes equally
long on each of them. What can differ is how fast a rank computes by itself, and how long it waits
for its own data.
"""

import socket
import statistics
import time

import torch

from taidscale.parallel.grid import Grid

_PROBE_SECONDS = 0.01
"""About what the probe takes on a typical rank."""
_SIZES = {"cpu": 256, "cuda": 2048}
"""Rows and columns of its matrices."""


class SlowRanks:
    """Compares how fast the ranks are. One slow check may be chance; a second one is told."""

    def __init__(self, ratio: float, grid: Grid) -> None:
        """Prepare the probe.

        Args:
            ratio: to the median rank; beyond it a rank is slow.
            grid: all ranks.
        """
        self._ratio, self._grid = ratio, grid
        size = _SIZES[grid.device.type]
        self._matrix = torch.ones((size, size), device=grid.device)
        self._product = torch.empty_like(self._matrix)
        self._repeats: int | None = None
        self._waited, self._since = 0.0, time.monotonic()
        self._slow_before: set[tuple[str, int]] = set()

    def waited(self, seconds: float) -> None:
        """Add what a step of this rank waited for its data."""
        self._waited += seconds

    def check(self) -> tuple[dict[str, float], str | None]:
        """Compare the ranks since the last check. All of them call it together.

        Returns:
            `slowest_rank`, its time for the same computation in times of the median rank's,
            `slowest_rank_ratio`; `data_slowest_rank`, and `data_slowdown`: how many times as long
            the steps took because it waited for data longer than the median rank. And a warning
            if a rank is slow for the second time in a row.

        Cost: one all-gather of 16 bytes a rank; at the first check two more of 8 bytes, and if a
        rank is slow one of short strings. About 10 ms of computation.
        """
        elapsed = max(time.monotonic() - self._since, 1e-9)
        seconds, waited = zip(*self._grid.gather_floats(self._probe(), self._waited), strict=True)
        self._waited, self._since = 0.0, time.monotonic()
        slowest = max(range(len(seconds)), key=seconds.__getitem__)
        ratio = seconds[slowest] / statistics.median(seconds)
        latest = max(range(len(waited)), key=waited.__getitem__)
        lost = min(waited[latest] - statistics.median(waited), 0.99 * elapsed)
        # Of the first rank, so that all ranks decide alike.
        ((slowdown,), *_) = self._grid.gather_floats(elapsed / (elapsed - lost))
        figures = {
            "slowest_rank": float(slowest),
            "slowest_rank_ratio": ratio,
            "data_slowest_rank": float(latest),
            "data_slowdown": slowdown,
        }
        slow = {("computes", slowest)} if ratio > self._ratio else set()
        slow |= {("waits", latest)} if slowdown > self._ratio else set()
        told, self._slow_before = slow & self._slow_before, slow
        if not told:
            return figures, None
        hosts = self._grid.gather(socket.gethostname())
        return figures, "; ".join(
            f"rank {rank} ({hosts[rank]}) takes {ratio:.1f} times as long as the median rank for "
            "the same computation, and the others wait for it: look for heat, power limits or "
            "other programs on its node"
            if kind == "computes"
            else f"rank {rank} ({hosts[rank]}) waits for its data so long that all steps take "
            f"{slowdown:.1f} times as long: look at its node's disk and network, or raise "
            "data.num_workers"
            for kind, rank in sorted(told)
        )

    def _probe(self) -> float:
        """Seconds of the same computation on every rank, without communication."""
        if self._repeats is None:
            self._multiply(1)  # the first one is slower
            own = self._multiply(3) / 3
            typical = statistics.median(s for (s,) in self._grid.gather_floats(own))
            self._repeats = max(1, round(_PROBE_SECONDS / typical))
        return self._multiply(self._repeats)

    def _multiply(self, times: int) -> float:
        if self._grid.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            torch.mm(self._matrix, self._matrix, out=self._product)
        if self._grid.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

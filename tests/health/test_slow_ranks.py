"""A rank that computes slowly, or waits for its data, is named after two checks."""

import os
import signal
import subprocess
import sys
import time

import torch

from taidscale.health.slow_ranks import SlowRanks
from taidscale.parallel.grid import make_grid
from tests.ranks import on_ranks

CPU = torch.device("cpu")

BRAKE = """
import os, signal, sys, time
while True:
    os.kill(int(sys.argv[1]), signal.SIGSTOP)
    time.sleep(0.05)
    os.kill(int(sys.argv[1]), signal.SIGCONT)
    time.sleep(0.001)
"""


@on_ranks(3)
def test_a_rank_that_is_held_up_is_named() -> None:
    grid = make_grid(1, CPU)
    slow = SlowRanks(3.0, grid)
    slow.check()
    brake = None
    if grid.rank == 1:
        brake = subprocess.Popen([sys.executable, "-c", BRAKE, str(os.getpid())])
    found = []
    try:
        for _ in range(6):
            time.sleep(0.1)
            found.append(slow.check())
    finally:
        if brake is not None:
            brake.kill()
            brake.wait()
            os.kill(os.getpid(), signal.SIGCONT)
    assert found[0][1] is None
    slowest = [figures["slowest_rank"] for figures, _ in found]
    assert slowest.count(1) >= 4, slowest  # other programs may hold up the others, too
    ratio = max(figures["slowest_rank_ratio"] for figures, _ in found)
    assert ratio > 3.0
    assert any(
        warning and "rank 1 (" in warning and "the same computation" in warning
        for _, warning in found
    )


@on_ranks(3)
def test_a_rank_that_waits_for_its_data_is_named() -> None:
    grid = make_grid(1, CPU)
    slow = SlowRanks(1.5, grid)
    for check in range(3):
        start = time.monotonic()
        time.sleep(1.0)
        slow.waited(0.01)
        if grid.rank == 2:
            slow.waited(0.6 * (time.monotonic() - start))
        figures, warning = slow.check()
        assert figures["data_slowest_rank"] == 2
        assert 1.5 < figures["data_slowdown"] < 3.0
        assert (warning is not None and "rank 2 (" in warning and "its data" in warning) == (
            check > 0
        )
    time.sleep(0.1)
    figures, warning = slow.check()
    assert figures["data_slowdown"] == 1.0
    assert warning is None or "its data" not in warning

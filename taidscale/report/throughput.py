"""How much of what the GPUs can compute does a run use?"""

import re
from dataclasses import dataclass

import numpy as np

from taidscale.report.history import RunHistory
from taidscale.report.lines import Numbers

PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.4,
    "H200": 989.4,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "H800": 989.4,
    "A100": 312.0,
    "A800": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "V100": 125.0,
    "MI300X": 1307.4,
    "MI250X": 191.5,
}
"""Dense bf16 (V100: fp16; MI250X: of one of its two dies) in TFLOP/s, by the makers' data sheets.
The key is a part of the GPU's name; the more special ones come first.
"""


@dataclass(frozen=True)
class Throughput:
    """Of each step, like `step` of the run."""

    tflops_per_rank: Numbers
    """10^12 floating-point operations per second that one rank did for the models' sake."""
    utilisation: Numbers | None
    """Of the peak, from 0 to 1 (MFU); None where the peak is not known."""


def throughput(run: RunHistory, peak_tflops: float | None = None) -> Throughput | None:
    """What the steps reached; None if the run did not record its sizes.

    The operations of a token are those that the start noted, by the shapes of the models. Runs of
    older versions noted parameters alone: then a token takes 6 operations a parameter of the
    student, and 2 of the teacher's where the loss needs it, and attention none. What is computed
    twice (gradient checkpointing) counts once.

    Args:
        run: with the facts that its starts recorded.
        peak_tflops: of one rank; by default that of its GPU by name.
    """
    speed = run.column("tokens_per_second")
    starts = [event for event in run.events if "parameters" in event.entry]
    if speed is None or not starts:
        return None
    needs_teacher = run.config is None or run.config.learns_from_teacher
    per_token_and_rank, peak = np.full(len(speed), np.nan), np.full(len(speed), np.nan)
    for start in starts:  # a later one holds from its step on
        facts = start.entry
        teacher = facts.get("teacher_parameters", 0) if needs_teacher else 0
        flops = facts.get("flops_per_token", 6 * facts["parameters"] + 2 * teacher)
        after = run.steps["step"] > start.step
        per_token_and_rank[after] = flops / facts["num_ranks"]
        known = peak_tflops or peak_of(str(facts.get("device", "")))
        peak[after] = np.nan if known is None else known
    reached = speed * per_token_and_rank / 1e12
    return Throughput(reached, reached / peak if np.isfinite(peak).any() else None)


def peak_of(device: str) -> float | None:
    """Dense bf16 TFLOP/s of a GPU by its name; None if it is not known."""
    for name, peak in PEAK_TFLOPS.items():
        words = r"[ -].*\b".join(map(re.escape, name.split()))
        if re.search(rf"\b{words}\b", device):
            return peak
    return None

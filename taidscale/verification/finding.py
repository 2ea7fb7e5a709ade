"""What a check found, as people read it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    check: str
    measured: str
    bound: str
    """What `measured` may be at most."""
    culprit: str | None = None
    """What is wrong, and where; None where nothing is."""


def table(findings: list[Finding]) -> list[str]:
    """Lines to print: all checks, and below them what is wrong."""
    rows = [["check", "measured", "bound", ""]]
    rows += [[f.check, f.measured, f.bound, "FAIL" if f.culprit else "pass"] for f in findings]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        name, *rest = row
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([f"{name:<{widths[0]}}", *cells]).rstrip())
    return lines + [f"FAIL {f.check}: {f.culprit}" for f in findings if f.culprit]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """L2 norm of the difference, in that of what is expected; infinite if it is not finite."""
    found, expected = found.double(), expected.double()
    scale = float(expected.norm()) or 1.0
    error = float((found - expected).norm()) / scale
    return error if error == error else float("inf")


def where(errors: list[float], bound: float, hosts: list[str]) -> str:
    """On which ranks an error exceeds its bound."""
    bad = [rank for rank, error in enumerate(errors) if not error <= bound]
    if len(bad) == len(errors):
        return "on all ranks"
    named = ", ".join(f"{rank} ({hosts[rank]})" for rank in bad[:8])
    return f"on rank {named}{' and more' if bad[8:] else ''} of {len(errors)}"

"""How is a curve of a million points drawn with a thousand?"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from taidscale.report.lines import Numbers

DRAWN_POINTS = 1200
"""Of the curve itself: two for each pixel or so."""
SMOOTH_POINTS = 400
SMOOTH_WIDTH = 0.012
"""Standard deviation of the window, as a part of the curve."""


class Points(NamedTuple):
    """A curve; NaN in y is a gap."""

    x: Numbers
    y: Numbers


def thinned(points: Points, num_points: int = DRAWN_POINTS) -> Points:
    """At most so many of the points, the extremes of each stretch among them."""
    x, y = points
    if len(x) <= num_points:
        return Points(x, np.where(np.isfinite(y), y, np.nan))
    kept: list[int] = []
    edges = np.linspace(0, len(x), num_points // 2 + 1).astype(int)
    for start, end in pairwise(edges):
        part = y[start:end]
        finite = np.isfinite(part)
        lowest = int(np.where(finite, part, np.inf).argmin())
        highest = int(np.where(finite, part, -np.inf).argmax())
        kept += [start + place for place in sorted({lowest, highest})]
    kept[-1] = max(kept[-1], len(x) - 1) if np.isfinite(y[-1]) else kept[-1]
    return Points(x[kept], np.where(np.isfinite(y[kept]), y[kept], np.nan))


def stretch_means(points: Points, num_points: int = SMOOTH_POINTS) -> Points:
    """The means of so many stretches of equal numbers of points; NaN where none is finite."""
    x, y = points
    edges = np.linspace(0, len(x), min(len(x), num_points) + 1).astype(int)
    sizes, starts = np.diff(edges), edges[:-1]
    finite = np.isfinite(y)
    counts = np.add.reduceat(finite.astype(np.float64), starts)
    sums = np.add.reduceat(np.where(finite, y, 0.0), starts)
    means = np.full(len(starts), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return Points(np.add.reduceat(x, starts) / sizes, means)


def smoothed(points: Points) -> Points:
    """The curve without its noise: a straight line fitted around each place, nearer points first.

    A line rather than a mean, so that neither end of a curve that falls is drawn too high or low.
    """
    x, y = stretch_means(points)
    sigma = max(1.0, SMOOTH_WIDTH * len(x))
    reach = min(int(np.ceil(3 * sigma)), max(len(x) - 1, 1))
    distance = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (distance / sigma) ** 2)
    finite = np.isfinite(y)
    there, values = finite.astype(np.float64), np.where(finite, y, 0.0)

    def around(data: Numbers, power: int) -> Numbers:
        """Σ kernel(d)·d^power·data[i + d] for each i."""
        weights = kernel * distance.astype(np.float64) ** power
        return np.convolve(data, weights[::-1], mode="full")[reach : reach + len(data)]

    s0, s1, s2 = (around(there, power) for power in range(3))
    v0, v1 = around(values, 0), around(values, 1)
    line = s2 * s0 - s1**2
    smooth = np.full(len(x), np.nan)
    np.divide(v0, s0, out=smooth, where=s0 > 1e-9)
    np.divide(s2 * v0 - s1 * v1, line, out=smooth, where=line > 1e-6 * s0**2)
    return Points(x, smooth)


def shown_range(curves: list[Numbers], *, from_zero: bool = False) -> tuple[float, float] | None:
    """From where to where a linear axis reaches, so that single outliers do not flatten the rest.

    An outlier lies beyond the bulk of the values by more than four times its width.

    Args:
        curves: values; NaN is none.
        from_zero: start there.

    Returns:
        None if there are no values.
    """
    values = [y[np.isfinite(y)] for y in curves]
    values = [y for y in values if len(y)]
    if not values:
        return None
    low, high = min(float(y.min()) for y in values), max(float(y.max()) for y in values)
    bulk_low = min(float(np.quantile(y, 0.01)) for y in values)
    bulk_high = max(float(np.quantile(y, 0.99)) for y in values)
    width = bulk_high - bulk_low
    if width > 0:
        low, high = max(low, bulk_low - 4 * width), min(high, bulk_high + 4 * width)
    if from_zero:
        return min(low, 0.0), high * 1.08 if high > 0 else 1.0
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin

"""Thinning keeps what stands out; smoothing keeps what is there."""

import math
import time

import numpy as np
import pytest

from taidscale.report.curves import (
    DRAWN_POINTS,
    SMOOTH_POINTS,
    Points,
    shown_range,
    smoothed,
    stretch_means,
    thinned,
)


def noise(count: int) -> Points:
    chance = np.random.default_rng(0)
    return Points(np.arange(1.0, count + 1), 2.0 + 0.1 * chance.standard_normal(count))


def test_a_million_points_keep_their_extremes_and_ends() -> None:
    curve = noise(1_000_000)
    for place, value in ((123_456, 50.0), (123_460, -7.0), (777_777, 49.0)):
        curve.y[place] = value
    started = time.process_time()  # whatever else this machine does
    thin, smooth = thinned(curve), smoothed(curve)
    assert time.process_time() - started < 5
    assert len(thin.x) <= DRAWN_POINTS
    assert len(smooth.x) <= SMOOTH_POINTS
    drawn = dict(zip(thin.x, thin.y, strict=True))
    assert (drawn[123_457.0], drawn[123_461.0], drawn[777_778.0]) == (50.0, -7.0, 49.0)
    assert (thin.x[-1], thin.x[0]) == (1_000_000.0, pytest.approx(1, abs=1700))
    assert (np.diff(thin.x) > 0).all()
    # Each point is one of the curve.
    np.testing.assert_array_equal(curve.y[thin.x.astype(int) - 1], thin.y)


def test_few_points_stay_as_they_are() -> None:
    curve = Points(np.arange(5.0), np.array([1.0, math.inf, 2.0, math.nan, 3.0]))
    np.testing.assert_equal(thinned(curve).y, [1.0, math.nan, 2.0, math.nan, 3.0])


@pytest.mark.parametrize("count", [1, 2, 5, 60, 400, 5000])
def test_smoothing_keeps_a_line_to_its_very_ends(count: int) -> None:
    x = np.arange(1.0, count + 1)
    smooth = smoothed(Points(x, 3.0 - 0.01 * x))
    np.testing.assert_allclose(smooth.y, 3.0 - 0.01 * smooth.x, atol=1e-9)


def test_smoothing_takes_noise_away_and_skips_what_is_no_number() -> None:
    curve = noise(4000)
    curve.y[100:140] = math.nan
    curve.y[2000] = math.inf
    smooth = smoothed(curve)
    assert np.isfinite(smooth.y).all()
    assert np.abs(smooth.y - 2.0).max() < 0.03
    assert np.isnan(smoothed(Points(curve.x[:3], np.full(3, math.nan))).y).all()


def test_an_overflowing_step_spoils_its_neighbourhood_alone() -> None:
    curve = noise(4000)
    curve.y[2000] = 1e30
    far = np.abs(smoothed(curve).x - 2000) > 400
    assert np.abs(smoothed(curve).y[far] - 2.0).max() < 0.05


def test_stretches_weigh_their_finite_values() -> None:
    x, y = np.arange(1.0, 9.0), np.array([1, 3, math.nan, 5, math.nan, math.nan, 2, 4.0])
    means = stretch_means(Points(x, y), 4)
    np.testing.assert_equal(means.y, [2.0, 5.0, math.nan, 3.0])
    np.testing.assert_equal(means.x, [1.5, 3.5, 5.5, 7.5])


def test_an_outlier_does_not_flatten_the_rest() -> None:
    values = noise(1000).y
    without = shown_range([values])
    values[500] = 1e6
    assert without is not None
    low, high = shown_range([values]) or (0.0, 0.0)
    assert (low, high) == (pytest.approx(without[0], abs=0.3), pytest.approx(without[1], abs=3))
    # The beginning of a curve that falls is no outlier.
    falling = np.linspace(10.0, 2.0, 300)
    low, high = shown_range([falling]) or (0.0, 0.0)
    assert low < 2.0 < 10.0 < high
    assert shown_range([np.full(3, math.nan)]) is None
    assert shown_range([np.array([5.0, 5.0])], from_zero=True) == (0.0, pytest.approx(5.4))

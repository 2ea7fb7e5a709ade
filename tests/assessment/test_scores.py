"""What is lost and won, and how sure that is."""

import math

import numpy as np
import pytest

from taidscale.assessment.scores import Score, changes, difference_stderr, mean_score


def score(each: list[float] | None, *, task: str = "t", better: bool = True) -> Score:
    values = each or [0.5]
    return Score(
        task=task,
        metric="acc",
        value=float(np.mean(values)),
        stderr=0.1,
        higher_is_better=better,
        each=each,
    )


def test_ratio_has_the_error_of_the_mean_where_items_weigh_alike() -> None:
    values = np.random.default_rng(0).normal(size=50)
    found = mean_score("text", "x", values * 3, np.full(50, 3.0))
    assert found.value == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_ratio_is_of_sums() -> None:
    found = mean_score("text", "x", np.array([1.0, 9.0]), np.array([1.0, 3.0]))
    assert found.value == 2.5
    assert found.each == [1.0, 3.0]


def test_difference_is_of_the_same_items() -> None:
    before = score([1.0, 0.0, 1.0, 0.0] * 25)
    after = score([1.0, 0.0, 1.0, 0.0] * 24 + [0.0, 0.0, 0.0, 0.0])
    expected = np.array([0.0] * 98 + [-1.0] * 2).std(ddof=1) / 10
    assert difference_stderr(before, after) == pytest.approx(expected)
    assert difference_stderr(before, score(None)) == pytest.approx(math.hypot(0.1, 0.1))


def test_losses_are_named_the_greatest_first() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2, 200).astype(float)
    worse, much_worse = base.copy(), base.copy()
    worse[:20] = 0.0
    much_worse[:90] = 0.0
    won = np.minimum(base + (np.arange(200) < 30), 1.0)
    before = [score(base.tolist(), task=name) for name in ("a", "b", "c", "d", "only before")]
    after = [
        score(values.tolist(), task=name)
        for name, values in (("a", worse), ("b", much_worse), ("c", won), ("d", base))
    ]
    found = changes(before, after, min_errors=1.0)
    assert [change.task for change in found] == ["b", "a", "c"]
    assert str(found[0]).startswith("LOST: b acc")
    assert str(found[-1]).startswith("won: c acc")
    assert [c.task for c in changes(before, after, min_errors=5.0)] == ["b"]


def test_less_may_be_better() -> None:
    before, after = (score(x, better=False) for x in ([1.0, 1.1, 0.9], [2.0, 2.2, 1.9]))
    (change,) = changes([before], [after], 1.0)
    assert change.gain < 0

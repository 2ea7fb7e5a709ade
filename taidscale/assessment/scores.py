"""What a score is, and which scores a student lost and won.

The standard error of a difference is that of the differences of single items, where both models
were scored on the same items: it is much smaller than that of two independent samples.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict


class Score(BaseModel):
    """A figure of one model."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    task: str
    """Or the name of a domain of text."""
    metric: str
    value: float
    stderr: float | None
    """None where it is not known."""
    higher_is_better: bool
    each: list[float] | None = None
    """Of each item, in order, where the value is their mean (weighted by `weights`)."""
    weights: list[float] | None = None
    """Of the items; None where all are 1."""


class Change(NamedTuple):
    """How a score differs before and after."""

    task: str
    metric: str
    before: float
    after: float
    stderr: float
    """Of the difference."""
    gain: float
    """The difference in standard errors, above 0 where the student became better."""

    def __str__(self) -> str:
        """In one line."""
        verdict = "LOST" if self.gain < -2 else "won" if self.gain > 2 else "perhaps "
        if verdict == "perhaps ":
            verdict += "lost" if self.gain < 0 else "won"
        errors = f"{abs(self.gain):.1f} standard errors" if math.isfinite(self.gain) else "exact"
        return (
            f"{verdict}: {self.task} {self.metric} {self.before:.4g} -> {self.after:.4g} "
            f"({self.after - self.before:+.4g} ± {self.stderr:.2g}, {errors})"
        )


def mean_score(
    task: str,
    metric: str,
    sums: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    higher_is_better: bool = False,
) -> Score:
    """A ratio of sums over items, such as nats over bytes, with its standard error.

    Args:
        task: Or domain.
        metric: Its name.
        sums: [n] of the items.
        weights: [n] by which they are divided.
        higher_is_better: Or worse.
    """
    value = float(sums.sum() / weights.sum())
    each, by = sums / weights, weights.tolist()
    return Score(
        task=task,
        metric=metric,
        value=value,
        stderr=_stderr(each - value, weights),
        higher_is_better=higher_is_better,
        each=each.tolist(),
        weights=by,
    )


def changes(before: Sequence[Score], after: Sequence[Score], min_errors: float) -> list[Change]:
    """What differs by more than some standard errors, the greatest losses first.

    Args:
        before: Of the student before.
        after: Of the student after; a score without a counterpart says nothing.
        min_errors: Standard errors of the difference.
    """
    earlier = {(score.task, score.metric): score for score in before}
    found = []
    for score in after:
        old = earlier.get((score.task, score.metric))
        if old is None or (stderr := difference_stderr(old, score)) is None:
            continue
        gain = score.value - old.value if score.higher_is_better else old.value - score.value
        errors = gain / stderr if stderr else math.copysign(math.inf, gain) if gain else 0.0
        if abs(errors) > min_errors:
            found.append(Change(score.task, score.metric, old.value, score.value, stderr, errors))
    return sorted(found, key=lambda change: change.gain)


def difference_stderr(before: Score, after: Score) -> float | None:
    """Standard error of the difference; None where neither items nor errors are known."""
    old, new = before.each, after.each
    same_weights = before.weights == after.weights
    if old is not None and new is not None and len(old) == len(new) and same_weights:
        weights = np.array(after.weights or [1.0] * len(new))
        difference = np.array(new) - np.array(old)
        mean = float((difference * weights).sum() / weights.sum())
        return _stderr(difference - mean, weights)
    if before.stderr is None or after.stderr is None:
        return None
    return math.hypot(before.stderr, after.stderr)


def _stderr(deviations: NDArray[np.float64], weights: NDArray[np.float64]) -> float | None:
    """Of a weighted mean; that of a ratio of sums (linearised)."""
    n = len(weights)
    if n < 2:
        return None
    return float(math.sqrt(((weights * deviations) ** 2).sum() * n / (n - 1)) / weights.sum())

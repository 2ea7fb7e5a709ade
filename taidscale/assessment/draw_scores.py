"""What the student lost and won, in a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taidscale.assessment.comparison import BITS_PER_BYTE, TEACHER_KL
from taidscale.assessment.scores import Change, Score
from taidscale.assessment.subjects import TITLES, Role
from taidscale.data.draw_lengths import import_pyplot

COLORS: dict[Role, str] = {"teacher": "#bbbbbb", "before": "#ddaa33", "after": "#4477aa"}
LOST = "#cc3311"


def draw_scores(scores: Mapping[Role, Sequence[Score]], lost: Sequence[Change], path: Path) -> None:
    """Write a PNG: grouped bars with standard errors, tasks, bits per byte and KL each apart.

    Args:
        scores: Of each model. What is neither of text nor between 0 and 1 is not drawn.
        lost: Marked above the student after.
        path: Of the file.

    Raises:
        ValueError: matplotlib is not installed.
    """
    everything = [score for found in scores.values() for score in found]
    panels = [
        ("tasks: higher is better", _rows(everything, None)),
        (f"{BITS_PER_BYTE}: lower is better", _rows(everything, BITS_PER_BYTE)),
        (f"{TEACHER_KL}, nats/token: lower is better", _rows(everything, TEACHER_KL)),
    ]
    panels = [(title, rows) for title, rows in panels if rows]
    if not panels:
        return
    pyplot = import_pyplot()
    figure, axes = pyplot.subplots(
        1,
        len(panels),
        squeeze=False,
        figsize=(2.5 + 1.0 * sum(len(rows) + 1 for _, rows in panels), 4.4),
        width_ratios=[len(rows) + 1 for _, rows in panels],
        layout="constrained",
    )
    for axis, (title, rows) in zip(axes[0], panels, strict=True):
        _draw_panel(axis, title, rows, scores, {(c.task, c.metric) for c in lost})
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=150, format="png")
    partial.replace(path)
    pyplot.close(figure)


def _rows(scores: Sequence[Score], metric: str | None) -> list[tuple[str, str]]:
    """(Task, metric) of a panel; None for tasks."""
    of_text = {score.task for score in scores if score.metric == BITS_PER_BYTE}
    if metric is None:
        kept = [s for s in scores if s.task not in of_text and 0 <= s.value <= 1]
    else:
        kept = [score for score in scores if score.metric == metric]
    return list(dict.fromkeys((score.task, score.metric) for score in kept))


def _draw_panel(
    axis: Any,
    title: str,
    rows: Sequence[tuple[str, str]],
    scores: Mapping[Role, Sequence[Score]],
    lost: set[tuple[str, str]],
) -> None:
    roles, width = list(scores), 0.8 / len(scores)
    for number, role in enumerate(roles):
        found = {(score.task, score.metric): score for score in scores[role]}
        bars = [(k, found[row]) for k, row in enumerate(rows) if row in found]
        place = np.array([k for k, _ in bars]) + (number - (len(roles) - 1) / 2) * width
        axis.bar(
            place,
            [score.value for _, score in bars],
            width * 0.92,
            yerr=[score.stderr or 0.0 for _, score in bars],
            color=COLORS[role],
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "dimgray"},
            label=TITLES[role],
            zorder=2,
        )
        for x, (k, score) in zip(place, bars, strict=True):
            if role == "after" and rows[k] in lost:
                top = score.value + (score.stderr or 0.0)
                axis.annotate(
                    "lost", (x, top), (0, 3), textcoords="offset points", ha="center",
                    color=LOST, fontsize=8, fontweight="bold",
                )  # fmt: skip
    is_task = title.startswith("tasks")
    names = [f"{task}\n{metric}" if is_task else task for task, metric in rows]
    axis.set_xticks(range(len(rows)), names, fontsize=8)
    axis.set_xlim(-0.6, len(rows) - 0.4)
    axis.set_title(title, loc="left", fontsize=9)
    axis.grid(axis="y", color="gainsboro", linewidth=0.6, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)

"""Models side by side, in a picture."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taidscale.assessment.scores import Score
from taidscale.assessment.subjects import TITLES, Role
from taidscale.data.draw_lengths import import_pyplot
from taidscale.durable import written_aside

COLORS: dict[Role, str] = {"teacher": "#bbbbbb", "before": "#ddaa33", "after": "#4477aa"}
MARK = "#cc3311"
MAX_WIDTH = 15
"""Groups of bars side by side, an axis counted as one more."""
Key = tuple[str, str]
"""Task and metric of a score."""


@dataclass(frozen=True)
class Panel:
    """Scores on one axis.

    Args:
        title: What is shown, and which way is better.
        labels: Of the scores to show, in order.
        top: Of the axis; None for a little more than the highest bar.
    """

    title: str
    labels: Mapping[Key, str]
    top: float | None = None


def draw_bars(
    panels: Iterable[Panel],
    scores: Mapping[Role, Sequence[Score]],
    path: Path,
    marked: Mapping[Key, str] | None = None,
) -> None:
    """Write a PNG: grouped bars with standard errors.

    Args:
        panels: In order; one without labels is left out.
        scores: Of each model.
        path: Of the file; there is none without panels.
        marked: What to write above bars of the student after.

    Raises:
        ValueError: matplotlib is not installed.
    """
    panels = [panel for panel in panels if panel.labels]
    if not panels:
        return
    pyplot = import_pyplot()
    rows = list(_rows(panels))
    width = max(map(_width, rows))
    figure = pyplot.figure(figsize=(1.0 + 0.95 * width, 3.9 * len(rows)), layout="constrained")
    lines = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    found: dict[str, Any] = {}
    for line, row in zip(lines, rows, strict=True):
        ratios = [len(panel.labels) + 1.0 for panel in row]
        axes = line.subplots(1, len(row), squeeze=False, width_ratios=ratios)[0]
        for axis, panel in zip(axes, row, strict=True):
            _draw_panel(axis, panel, scores, marked or {})
            handles, labels = axis.get_legend_handles_labels()
            found |= dict(zip(labels, handles, strict=True))
    shown = [title for title in TITLES.values() if title in found]
    bars = [found[title] for title in shown]
    lines[0].legend(bars, shown, loc="outside upper center", ncols=len(shown), frameon=False)
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=150, format="png")
    pyplot.close(figure)


def _rows(panels: Iterable[Panel]) -> Iterator[list[Panel]]:
    """As many side by side as a page has room for."""
    row: list[Panel] = []
    for panel in panels:
        if row and _width([*row, panel]) > MAX_WIDTH:
            yield row
            row = []
        row.append(panel)
    yield row


def _width(row: Sequence[Panel]) -> int:
    """In groups of bars, and one for the space of each axis."""
    return sum(len(panel.labels) + 1 for panel in row)


def _draw_panel(
    axis: Any, panel: Panel, scores: Mapping[Role, Sequence[Score]], marked: Mapping[Key, str]
) -> None:
    found = {role: {(s.task, s.metric): s for s in scores[role]} for role in scores}
    roles = [role for role in scores if found[role].keys() & panel.labels.keys()]
    width = 0.8 / len(roles)
    for number, role in enumerate(roles):
        keys = [(k, key) for k, key in enumerate(panel.labels) if key in found[role]]
        place = np.array([k for k, _ in keys]) + (number - (len(roles) - 1) / 2) * width
        values = [found[role][key].value for _, key in keys]
        errors = [found[role][key].stderr or 0.0 for _, key in keys]
        axis.bar(
            place,
            values,
            width * 0.92,
            yerr=errors,
            color=COLORS[role],
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "dimgray"},
            label=TITLES[role],
            zorder=2,
        )
        for x, value, error, (_, key) in zip(place, values, errors, keys, strict=True):
            above = {"textcoords": "offset points", "ha": "center"}
            said = f"{value:.2f}" if value < 10 else f"{value:.0f}"
            axis.annotate(said, (x, value + error), (0, 2), fontsize=6, **above)
            if role == "after" and key in marked:
                axis.annotate(
                    marked[key], (x, value + error), (0, 10),
                    color=MARK, fontsize=8, fontweight="bold", **above,
                )  # fmt: skip
    axis.set_xticks(range(len(panel.labels)), panel.labels.values(), fontsize=8)
    axis.set_xlim(-0.6, len(panel.labels) - 0.4)
    axis.margins(y=0.12)
    axis.set_ylim(0, None if panel.top is None else 1.08 * panel.top)
    axis.set_title(panel.title, loc="left", fontsize=9)
    axis.grid(axis="y", color="gainsboro", linewidth=0.6, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)

"""What does a panel look like? One code draws the page's SVG and the PNG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from taidscale.report.curves import Points, shown_range, smoothed, thinned
from taidscale.report.history import RunHistory
from taidscale.report.panels import PARTS, Panel

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
"""Of the runs: Okabe and Ito's, which colour-blind people can tell apart (jfly.uni-koeln.de)."""
PART_COLOURS = dict(
    zip(
        (*PARTS, "rest"),
        ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#C4C4C4"),
        strict=True,
    )
)
MARKS = {
    "resumed": (">", "▸", "resumed"),
    "skipped": ("x", "✕", "skipped step"),
    "spike": ("^", "▴", "spike of the loss"),
    "rolled back": ("<", "◂", "rolled back to here"),
    "changed": ("*", "★", "a setting changed"),
    "slow rank": ("o", "●", "slow rank"),
    "interrupted": ("d", "♦", "interrupted"),
    "finished": ("s", "■", "finished"),
}
"""Of events: in a drawing, in text, in words."""
OTHER_MARK = ("P", "✚", "other event")
MOST_MARKS = 200
"""Of one kind and run in a drawing."""
SIZE = (4.9, 3.1)
"""In inches, like what the texts around the axes take."""
LEFT_INCHES, TOP_INCHES, RIGHT_INCHES = 0.55, 0.3, 0.22
LABELS_INCHES, LEGEND_LINE_INCHES = 0.62, 0.19
LEGEND_LETTERS = 88
"""Of a line of the legend."""
MOST_LETTERS = 50
FEW_POINTS = 40
WIDTHS = {"-": 1.7, "--": 1.3, ":": 1.3}
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#444444",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "text.parse_math": False,  # a run's name may have dollars
    "svg.fonttype": "none",
    "svg.hashsalt": "taidscale",
}


@dataclass(frozen=True)
class Drawn:
    """A finished drawing, and where its curves lie, for whoever points at them."""

    svg: bytes
    png: bytes
    box: tuple[float, float, float, float]
    """Left, top, right and bottom of the axes, as parts of the drawing."""
    steps: tuple[float, float]
    """At its left and right."""
    curves: list[tuple[str, str, Points]]
    """Name, colour and points of each curve."""


def mark_of(kind: str, step: int) -> tuple[str, str, str]:
    """How an event is drawn, written and called; the first start needs no mark."""
    return MARKS.get("resumed" if kind == "start" and step else kind, OTHER_MARK)


def draw(panel: Panel, runs: Sequence[RunHistory], *, log: bool = False) -> Drawn:
    """Draw a panel.

    Args:
        panel: what to draw.
        runs: all of them; colours and names go by their numbers.
        log: with a logarithmic axis.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        handles = _part_handles(panel) if panel.stacked else _handles(panel, runs)
        columns = len(handles) if panel.stacked else _legend_columns(handles)
        box = _place(-(-len(handles) // columns) if handles else 0)
        axis = figure.add_axes((box[0], 1 - box[3], box[2] - box[0], box[3] - box[1]))
        drawn = _stack(axis, panel) if panel.stacked else _curves(axis, panel, runs, log)
        _frame(axis, panel, runs)
        if handles:
            figure.legend(
                handles=handles,
                loc="lower left",
                bbox_to_anchor=(0.02, 0.0),
                ncols=columns,
                frameon=False,
                fontsize=7.8,
                handlelength=0.8 if panel.stacked else 1.8,
                handletextpad=0.3 if panel.stacked else 0.6,
                columnspacing=0.9 if panel.stacked else 1.4,
            )
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=150)
    return Drawn(svg.getvalue(), png.getvalue(), box, axis.get_xlim(), drawn)


def _place(legend_lines: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the axes: the same in all drawings, but for the legend."""
    width, height = SIZE
    bottom = LABELS_INCHES + LEGEND_LINE_INCHES * legend_lines
    return LEFT_INCHES / width, TOP_INCHES / height, 1 - RIGHT_INCHES / width, 1 - bottom / height


def _legend_columns(handles: list[Line2D]) -> int:
    """As many as fit side by side, each as wide as the widest."""
    letters = max((6 + len(str(handle.get_label())) for handle in handles), default=1)
    return max(1, min(len(handles), LEGEND_LETTERS // letters))


def colour_of(run: int) -> str:
    """Of a run by its number."""
    return COLOURS[run % len(COLOURS)]


def quantity(value: float) -> str:
    """1200000 as 1.2 M."""
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g} {letter}"
    return f"{value:.3g}"


def shortened(name: str) -> str:
    """The end of a long name, which is where names of runs differ."""
    return name if len(name) <= MOST_LETTERS else f"…{name[1 - MOST_LETTERS :]}"


def _curves(
    axis: Any, panel: Panel, runs: Sequence[RunHistory], log: bool
) -> list[tuple[str, str, Points]]:
    shown, drawn = [], []
    for curve in panel.curves:
        colour, smooth = colour_of(curve.run), None
        if curve.noisy and len(curve.points.x) > FEW_POINTS:
            smooth = smoothed(curve.points)
        raw = thinned(curve.points)
        if log:
            raw = Points(raw.x, np.where(raw.y > 0, raw.y, np.nan))
        main = smooth or raw
        if smooth:
            axis.plot(*raw, color=colour, linewidth=0.6, alpha=0.3, zorder=2)
        axis.plot(
            *main,
            linestyle=curve.style,
            color=colour,
            linewidth=4.0 if curve.wide else WIDTHS[curve.style],
            alpha=0.4 if curve.wide else 1.0,
            marker="o" if curve.dots else None,
            markersize=3,
            zorder=3,
        )
        name = ", ".join(filter(None, (runs[curve.run].name if len(runs) > 1 else "", curve.what)))
        drawn.append((name or panel.title, colour, main))
        shown.append(curve.points.y)
    if log:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(FuncFormatter(_few_minor_labels))
    elif (limits := shown_range(shown, from_zero=panel.from_zero)) is not None:
        axis.set_ylim(*limits)
        big = limits[1] >= 1e4
        axis.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: quantity(value) if big else f"{value:g}")
        )
        _point_beyond(axis, panel, limits[1])
    _mark_events(axis, runs)
    return drawn


def _few_minor_labels(value: float, _: Any) -> str:
    return f"{value:g}" if f"{value:e}"[0] in "235" else ""


def _point_beyond(axis: Any, panel: Panel, top: float) -> None:
    """An arrow at the upper edge above each stretch whose values lie beyond it."""
    for curve in panel.curves:
        highest = thinned(curve.points, 100)
        beyond = highest.x[np.nan_to_num(highest.y, nan=-np.inf) > top]
        axis.plot(
            beyond,
            np.full(len(beyond), top),
            "^",
            color=colour_of(curve.run),
            markersize=4,
            clip_on=False,
        )


def _mark_events(axis: Any, runs: Sequence[RunHistory]) -> None:
    """Marks along the lower edge, and a line where a run was taken up again."""
    for number, run in enumerate(runs):
        for kind in dict.fromkeys(event.kind for event in run.events):
            steps = sorted({e.step for e in run.events if e.kind == kind and e.step})
            for step in steps if kind in ("start", "rolled back") and len(steps) < 20 else ():
                axis.axvline(step, color=colour_of(number), linewidth=0.7, alpha=0.5, zorder=1)
            steps = steps[:: -(-len(steps) // MOST_MARKS)] if steps else steps
            axis.plot(
                steps,
                np.full(len(steps), 0.025 + 0.045 * (number % 8)),
                linestyle="",
                marker=mark_of(kind, 1)[0],
                markersize=4.5,
                color=colour_of(number),
                transform=axis.get_xaxis_transform(),
                zorder=4,
            )


def _stack(axis: Any, panel: Panel) -> list[tuple[str, str, Points]]:
    means = [(name, smoothed(points)) for name, points in panel.stacked]
    steps = means[0][1].x
    heights = [np.maximum(np.nan_to_num(points.y), 0.0) for _, points in means]
    colours = [PART_COLOURS[name] for name, _ in means]
    axis.stackplot(steps, *heights, colors=colours, linewidth=0)
    total = np.sum(heights, axis=0)
    axis.set_ylim(0, min(float(total.max()), 4 * float(np.median(total))) * 1.05 or 1.0)
    axis.set_xlim(float(steps[0]), max(float(steps[-1]), float(steps[0]) + 1))
    return [(name, PART_COLOURS[name], points) for name, points in means]


def _frame(axis: Any, panel: Panel, runs: Sequence[RunHistory]) -> None:
    axis.set_title(shortened(panel.title), loc="left", fontweight="bold", color="#222222")
    axis.set_title(panel.unit, loc="right", fontsize=8, color="#666666")
    axis.grid(color="#E4E4E4", linewidth=0.6, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    tokens = _tokens_per_step(runs if panel.run is None else [runs[panel.run]])

    def label(step: float, _: Any) -> str:
        return quantity(step) + (f"\n{quantity(step * tokens)}" if tokens and step > 0 else "")

    axis.xaxis.set_major_formatter(FuncFormatter(label))
    axis.set_xlabel("step, tokens below" if tokens else "step", fontsize=8)


def _tokens_per_step(runs: Sequence[RunHistory]) -> float | None:
    """If it is about the same in all runs, and at all times."""
    found = []
    for run in runs:
        tokens = run.column("num_tokens")
        if tokens is None:
            return None
        per_step = tokens / run.steps["step"]
        found += [float(np.nanmin(per_step)), float(np.nanmax(per_step))]
    return found[-1] if found and max(found) <= 1.02 * min(found) else None


def _handles(panel: Panel, runs: Sequence[RunHistory]) -> list[Line2D]:
    """Names of the runs by colour, then what the styles mean."""
    numbers = sorted({curve.run for curve in panel.curves}) if len(runs) > 1 else []
    styles: dict[tuple[str, Literal["-", "--", ":"]], None] = dict.fromkeys(
        (curve.what, curve.style) for curve in panel.curves if curve.what
    )
    colour = "#666666" if numbers else colour_of(0)
    return [
        *(
            Line2D([], [], color=colour_of(n), linewidth=2.2, label=shortened(runs[n].name))
            for n in numbers
        ),
        *(
            Line2D([], [], color=colour, linestyle=style, linewidth=1.4, label=what)
            for what, style in styles
        ),
    ]


def _part_handles(panel: Panel) -> list[Line2D]:
    return [
        Line2D([], [], color=PART_COLOURS[name], marker="s", linestyle="", label=name)
        for name, _ in panel.stacked
    ]

"""How do the drawings and tables become one page that needs nothing beside it?"""

import base64
import json
import math
from collections.abc import Sequence
from html import escape

from taidscale.config.load import dump_config
from taidscale.report.drawing import MARKS, OTHER_MARK, Drawn, colour_of, mark_of
from taidscale.report.history import RunHistory
from taidscale.report.page_style import CSS, SCRIPT
from taidscale.report.panels import Panel
from taidscale.report.tables import (
    Row,
    best_evaluations,
    clock_time,
    differences,
    events,
    last_values,
)

Section = tuple[str, list[tuple[Panel, Drawn, Drawn | None]]]
"""Heading, and drawings: each with its twin with a logarithmic axis, if there is one."""


def page(
    runs: Sequence[RunHistory],
    sections: Sequence[Section],
    *,
    peak_tflops: float | None,
    now: float,
    reload_seconds: float | None,
) -> str:
    """The HTML of everything.

    Args:
        runs: in their order.
        sections: of drawings.
        peak_tflops: of one rank.
        now: seconds since 1970.
        reload_seconds: after which the page looks for a newer one.
    """
    names = [run.name for run in runs]
    reload = f'<meta http-equiv="refresh" content="{reload_seconds:.0f}">' if reload_seconds else ""
    # No icon: browsers would ask for one.
    head = (
        f'<meta charset="utf-8"><title>{escape(", ".join(names))}</title>{reload}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{CSS}</style>'
    )
    again = f", written again every {reload_seconds:.0f} seconds" if reload_seconds else ""
    body = [
        f"<h1>{escape(' and '.join(names) if len(names) < 3 else f'{len(names)} runs')}</h1>",
        f'<p class="quiet">As of {clock_time(now)}{again}. Pale lines are the figures of each '
        "step, strong ones the same without the noise; point at a drawing to read them.</p>",
        _bar(runs),
        _tables(runs, last_values(runs, peak_tflops, now)),
    ]
    for heading, drawings in sections:
        figures = "".join(_figure(*drawing) for drawing in drawings)
        body.append(f'<h2>{escape(heading)}</h2><div class="panels">{figures}</div>')
    body += [_events(runs), _settings(runs), f"<script>{SCRIPT}</script>"]
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _bar(runs: Sequence[RunHistory]) -> str:
    """What colours and marks mean, and the switch."""
    parts = [f"<span>{_chip(n)}{escape(run.name)}</span>" for n, run in enumerate(runs)]
    marks = {mark_of(e.kind, e.step) for run in runs for e in run.events if e.step}
    for mark in (*MARKS.values(), OTHER_MARK):
        if mark in marks:
            parts.append(f'<span class="quiet">{mark[1]} {escape(mark[2])}</span>')
    parts.append('<label class="quiet"><input type="checkbox" id="log"> logarithmic axes</label>')
    return f'<div class="bar">{"".join(parts)}</div>'


def _tables(runs: Sequence[RunHistory], last: Sequence[Row]) -> str:
    """Where the runs stand, and beside it how they compare."""
    beside = {"Best evaluations": best_evaluations(runs), "Settings that differ": differences(runs)}
    tables = "".join(
        f"<h2>{heading}</h2>{_table(runs, rows)}" for heading, rows in beside.items() if rows
    )
    left = f"<h2>Last values</h2>{_table(runs, last)}"
    return f'<div class="tables"><div>{left}</div><div>{tables}</div></div>'


def _chip(run: int) -> str:
    return f'<span class="chip" style="background:{colour_of(run)}"></span>'


def _figure(panel: Panel, drawn: Drawn, log: Drawn | None) -> str:
    views = _view(panel, drawn, "linear twin" if log else "linear")
    if log:
        views += _view(panel, log, "log")
    note = f'<figcaption class="note">{escape(panel.note)}</figcaption>' if panel.note else ""
    return f"<figure>{views}{note}</figure>"


def _view(panel: Panel, drawn: Drawn, kind: str) -> str:
    """A drawing, and what is needed to read values off it."""
    data = {
        "box": [round(edge, 5) for edge in drawn.box],
        "steps": [_short(edge) for edge in drawn.steps],
        "curves": [
            {
                "name": name,
                "color": colour,
                "x": [_short(x) for x in points.x],
                "y": [_short(y) for y in points.y],
            }
            for name, colour, points in drawn.curves
        ],
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    image = base64.b64encode(drawn.svg).decode("ascii")
    return (
        f'<div class="view {kind}" style="position:relative">'
        f'<img alt="{escape(panel.title)}" src="data:image/svg+xml;base64,{image}">'
        '<div class="cursor"></div><div class="values"></div>'
        f'<script type="application/json">{text}</script></div>'
    )


def _short(value: float) -> float | None:
    """Five digits; JSON knows no NaN."""
    if not math.isfinite(value):
        return None
    rounded = round(float(value)) if abs(value) >= 1e5 else float(f"{value:.5g}")
    return int(rounded) if rounded == int(rounded) else rounded


def _table(runs: Sequence[RunHistory], rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{_chip(n)}{escape(run.name)}</th>" for n, run in enumerate(runs))
    lines = []
    for row in rows:
        cells = "".join(
            f'<td class="best">{escape(cell)}</td>' if n == row.best else f"<td>{escape(cell)}</td>"
            for n, cell in enumerate(row.cells)
        )
        lines.append(f"<tr><th>{escape(row.name)}</th>{cells}</tr>")
    return (
        '<div class="scroll"><table class="figures">'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _events(runs: Sequence[RunHistory]) -> str:
    found, left_out = events(runs)
    lines = "".join(
        f"<tr><td>{clock_time(one.event.unix_seconds)}</td>"
        f"<td>{_chip(one.run)}{escape(runs[one.run].name)}</td><td>{one.event.step:,}</td>"
        f"<td>{mark_of(one.event.kind, one.event.step)[1] if one.event.step else ''} "
        f"{escape(one.event.kind)}</td><td>{escape(one.event.message)}</td></tr>"
        for one in found
    )
    more = (
        f'<p class="quiet">{left_out:,} earlier ones are in events.jsonl.</p>' if left_out else ""
    )
    return (
        '<h2>Events</h2><div class="scroll"><table class="events"><thead><tr><th>when</th><th>run'
        f"</th><th>step</th><th>what</th><th></th></tr></thead><tbody>{lines}</tbody></table></div>"
        f"{more}"
    )


def _settings(runs: Sequence[RunHistory]) -> str:
    parts = ["<h2>Settings</h2>"]
    if len(runs) > 1 and not differences(runs):
        parts.append("<p>They are the same in all runs.</p>")
    for number, run in enumerate(runs):
        text = dump_config(run.config) if run.config else "config.yaml is missing or unreadable"
        parts.append(
            f"<details><summary>{_chip(number)}all of {escape(run.name)}</summary>"
            f"<pre>{escape(text)}</pre></details>"
        )
    return "".join(parts)

"""What do the runs say in numbers?"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taidscale.report.drawing import quantity
from taidscale.report.history import MEASURES, Event, RunHistory, in_words
from taidscale.report.panels import held_out_names
from taidscale.report.throughput import throughput

MOST_EVENTS = 200
"""Of a run and kind in the table."""


@dataclass(frozen=True)
class Row:
    """A figure and its value for each run; `best` has the number of the best run, if there is."""

    name: str
    cells: list[str]
    best: int | None = None


@dataclass(frozen=True)
class Happened:
    """An event of one of the runs."""

    run: int
    event: Event


LAST_VALUES: dict[str, tuple[str, Callable[[float], str]]] = {
    "loss": ("training loss", "{:.4f}".format),
    "teacher_kl": ("KL to the teacher", "{:.4f}".format),
    "mixture_kl": ("KL to the mixture", "{:.4f}".format),
    "t": ("t", "{:.4f}".format),
    "next_token_loss": ("next-token loss", "{:.4f}".format),
    "teacher_next_token_loss": ("next-token loss of the teacher", "{:.4f}".format),
    "student_entropy": ("entropy of the student", "{:.4f}".format),
    "teacher_entropy": ("entropy of the teacher", "{:.4f}".format),
    "gradient_norm": ("gradient norm", "{:.3g}".format),
    "learning_rate": ("learning rate", "{:.3g}".format),
    "peak_memory_gib": ("peak memory", "{:.2f} GiB".format),
    "skipped_steps": ("skipped steps", "{:.0f}".format),
}


def summary(run: RunHistory, now: float) -> dict[str, str]:
    """One run in a line."""
    total = f" of {run.config.total_steps:,}" if run.config else ""
    return {
        "run": run.name,
        "steps": f"{run.num_steps:,}{total}",
        "tokens": quantity(run.last("num_tokens") or 0.0),
        "loss": _or_dash(run.last("loss"), "{:.4f}"),
        "KL": _or_dash(run.last("teacher_kl"), "{:.4f}"),
        "t": _or_dash(run.last("t"), "{:.4f}"),
        "tokens/s": _or_dash(_speed(run), "{:,.0f}"),
        "state": run.state(now),
    }


def last_values(runs: Sequence[RunHistory], peak_tflops: float | None, now: float) -> list[Row]:
    """Where each run stands."""

    def row(name: str, cell: Callable[[RunHistory], str]) -> Row:
        return Row(name, [cell(run) for run in runs])

    rows = [
        row("state", lambda run: run.state(now)),
        row("steps", lambda run: summary(run, now)["steps"]),
        row("tokens", lambda run: _or_dash(run.last("num_tokens"), "{:,.0f}")),
        row("time left", lambda run: _time_left(run)),
        *(
            row(title, lambda run, name=name, text=text: _or_dash(run.last(name), text))  # type: ignore[misc]
            for name, (title, text) in LAST_VALUES.items()
            if any(run.column(name) is not None for run in runs)
        ),
        row("tokens/s, median of the last 100", lambda run: _or_dash(_speed(run), "{:,.0f}")),
        row("FLOP/s of a rank, likewise", lambda run: _reached(run, peak_tflops)),
        row("ran on", _machines),
    ]
    return [one for one in rows if any(cell != "–" for cell in one.cells)]


def best_evaluations(runs: Sequence[RunHistory]) -> list[Row]:
    """Of each held-out set: every measure at the evaluation at which the first of them was best."""
    rows = []
    for data in held_out_names(runs):
        for measure, title in MEASURES.items():
            values = [_at_best(run, data, measure) for run in runs]
            if all(value is None for value in values):
                continue
            found = [value[0] for value in values if value is not None]
            best = max(found) if measure == "top1_agreement" else min(found)
            winner = [n for n, v in enumerate(values) if v is not None and v[0] == best]
            cells = ["–" if v is None else f"{v[0]:.4f} (step {v[1]:,})" for v in values]
            rows.append(Row(f"{data}: {title}", cells, winner[0] if len(runs) > 1 else None))
    return rows


def differences(runs: Sequence[RunHistory]) -> list[Row]:
    """Settings that are not the same in all runs, but for their folders."""
    names = list(dict.fromkeys(n for run in runs for n in run.settings if n != "run_dir"))
    rows = []
    for name in names:
        values = [run.settings.get(name) for run in runs]
        if any(value != values[0] for value in values):
            rows.append(
                Row(name, [str(r.settings[name]) if name in r.settings else "–" for r in runs])
            )
    return rows


def events(runs: Sequence[RunHistory]) -> tuple[list[Happened], int]:
    """What happened, in the order of time; and how many more there are, which are left out."""
    kept, left_out = [], 0
    for number, run in enumerate(runs):
        for kind in dict.fromkeys(event.kind for event in run.events):
            found = [event for event in run.events if event.kind == kind]
            kept += [Happened(number, event) for event in found[-MOST_EVENTS:]]
            left_out += max(0, len(found) - MOST_EVENTS)
    return sorted(kept, key=lambda one: one.event.unix_seconds), left_out


def clock_time(unix_seconds: float) -> str:
    """Alike for whoever reads it, wherever."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_seconds))


def _or_dash(value: float | None, text: Any) -> str:
    """The value as the format says; a dash if there is none."""
    if value is None or not np.isfinite(value):
        return "–"
    return str(text(value) if callable(text) else text.format(value))


def _speed(run: RunHistory) -> float | None:
    speed = run.column("tokens_per_second")
    return None if speed is None else float(np.nanmedian(speed[-100:]))


def _time_left(run: RunHistory) -> str:
    seconds = None if run.ended else run.seconds_left()
    return "–" if seconds is None else in_words(seconds)


def _reached(run: RunHistory, peak_tflops: float | None) -> str:
    found = throughput(run, peak_tflops)
    if found is None:
        return "–"
    reached = quantity(1e12 * float(np.nanmedian(found.tflops_per_rank[-100:])))
    if found.utilisation is None:
        return reached
    return f"{reached}, {float(np.nanmedian(found.utilisation[-100:])):.1%} MFU"


def _machines(run: RunHistory) -> str:
    """Ranks and device of each start, those that follow each other alike once."""
    facts = [event.entry for event in run.events if "num_ranks" in event.entry]
    names = [f"{fact['num_ranks']} × {fact['device']}" for fact in facts]
    return ", then ".join(dict.fromkeys(names)) or "–"


def _at_best(run: RunHistory, data: str, measure: str) -> tuple[float, int] | None:
    found = run.evaluations.get(data, {})
    deciding = next((name for name in MEASURES if name in found), None)
    if measure not in found or deciding is None or not np.isfinite(found[deciding]).any():
        return None
    best = int(np.nanargmin(found[deciding]))
    return float(found[measure][best]), int(found["step"][best])

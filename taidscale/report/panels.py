"""Which curves stand in which drawing?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from taidscale.report.curves import Points, thinned
from taidscale.report.history import MEASURES, RunHistory
from taidscale.report.lines import Numbers
from taidscale.report.throughput import throughput
from taidscale.schedules.interpolation import expected_t, t_schedule

PARTS = ("teacher", "student", "loss", "backward", "optimizer", "wait")
"""Of a step, in their order; what is left of it is the rest."""
NEXT_TOKEN_LOSSES = {"next_token_loss": "student", "teacher_next_token_loss": "teacher"}


@dataclass(frozen=True)
class Curve:
    """One line of a drawing."""

    run: int
    """Whose: its number among all."""
    points: Points
    what: str = ""
    """What sets it apart from others of the same run."""
    style: Literal["-", "--", ":"] = "-"
    noisy: bool = False
    """Draw it pale, and what is left without the noise over it."""
    dots: bool = False
    """Mark each point."""
    wide: bool = False
    """Draw it wide and pale: another one lies on it."""


@dataclass(frozen=True)
class Panel:
    """One drawing over the steps."""

    key: str
    """Name of its file."""
    title: str
    unit: str
    curves: list[Curve]
    log: bool = False
    """Worth a logarithmic axis too."""
    from_zero: bool = False
    """The axis begins at 0."""
    stacked: list[tuple[str, Points]] = field(default_factory=list)
    """Instead of curves: parts that add up, by name."""
    note: str = ""
    """What one should know who looks at it."""
    run: int | None = None
    """The one run that it is about."""


def training_panels(runs: Sequence[RunHistory], peak_tflops: float | None) -> list[Panel]:
    """Of the training steps; those that no run has anything for are left out.

    Args:
        runs: to lay over each other.
        peak_tflops: of one rank.
    """
    panels = [
        Panel("loss", "Training loss", "nats per token", _loss_curves(runs), log=True),
        Panel(
            "kl",
            "KL to the teacher and to the mixture",
            "nats per token",
            _noisy(runs, teacher_kl="to the teacher", mixture_kl="to the mixture"),
            log=True,
        ),
        _t_panel(runs),
        Panel(
            "next-token-loss",
            "Next-token loss on training data",
            "nats per token",
            _noisy(runs, **NEXT_TOKEN_LOSSES),
            log=True,
        ),
        Panel(
            "entropy",
            "Entropy of what they predict",
            "nats per token",
            _noisy(runs, student_entropy="student", teacher_entropy="teacher"),
        ),
        Panel(
            "gradient-norm",
            "Gradient norm before clipping",
            "L2",
            _noisy(runs, gradient_norm=""),
            log=True,
            from_zero=True,
        ),
        Panel("learning-rate", "Learning rate", "", _plain(runs, "learning_rate"), from_zero=True),
        Panel(
            "tokens-per-second",
            "Tokens per second",
            "all ranks",
            _noisy(runs, tokens_per_second=""),
            from_zero=True,
        ),
        _flops_panel(runs, peak_tflops),
        Panel(
            "memory",
            "Peak memory of the first rank",
            "GiB",
            _plain(runs, "peak_memory_gib"),
            from_zero=True,
        ),
    ]
    return [panel for panel in panels if panel.curves]


def time_panels(runs: Sequence[RunHistory]) -> list[Panel]:
    """Where the time of a step goes, a drawing for each run."""
    panels = []
    for number, run in enumerate(runs):
        total = run.column("step_seconds")
        if total is None:
            continue
        parts = {name: run.column(f"{name}_seconds") for name in PARTS}
        known = {
            name: np.nan_to_num(values) for name, values in parts.items() if values is not None
        }
        rest = np.maximum(np.nan_to_num(total) - sum(known.values()), 0.0)
        stacked = [
            (name, Points(run.steps["step"], values))
            for name, values in [*known.items(), ("rest", rest)]
        ]
        recent = {
            name: float(points.y[-max(1, len(rest) // 5) :].mean()) for name, points in stacked
        }
        whole = sum(recent.values()) or 1.0
        shares = ", ".join(f"{name} {value / whole:.0%}" for name, value in recent.items())
        panels.append(
            Panel(
                f"step-time-{number + 1}",
                f"Time of a step: {run.name}" if len(runs) > 1 else "Time of a step",
                "seconds",
                [],
                stacked=stacked,
                note=f"last fifth: {shares}",
                run=number,
            )
        )
    return panels


def evaluation_panels(runs: Sequence[RunHistory], data: str) -> list[Panel]:
    """One held-out set: a drawing for each measure."""
    panels = []
    for measure, title in MEASURES.items():
        curves = []
        for number, run in enumerate(runs):
            found = run.evaluations.get(data, {})
            if measure not in found:
                continue
            teacher = found.get(f"teacher_{measure}")
            student = "student" if teacher is not None else ""
            curves.append(Curve(number, Points(found["step"], found[measure]), student, dots=True))
            if teacher is not None:
                curves.append(Curve(number, Points(found["step"], teacher), "teacher", "--"))
        unit = "share" if measure == "top1_agreement" else "nats per token"
        key = f"held-out-{file_name(data)}-{measure.replace('_', '-')}"
        panels.append(Panel(key, f"{data}: {title}", unit, curves, log=measure == "teacher_kl"))
    return [panel for panel in panels if panel.curves]


def held_out_names(runs: Sequence[RunHistory]) -> list[str]:
    """Of all held-out sets, in the order in which they were met."""
    return list(dict.fromkeys(name for run in runs for name in run.evaluations))


def file_name(text: str) -> str:
    """The text with nothing in it that a file's name should not have."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in text)


def _noisy(runs: Sequence[RunHistory], **columns: str) -> list[Curve]:
    """Curves of columns: the first solid, the second dashed."""
    styles: dict[str, Literal["-", "--"]] = dict(zip(columns, ("-", "--"), strict=False))
    return [
        Curve(number, Points(run.steps["step"], values), what, styles[name], noisy=True)
        for number, run in enumerate(runs)
        for name, what in columns.items()
        if (values := run.column(name)) is not None
    ]


def _plain(runs: Sequence[RunHistory], name: str) -> list[Curve]:
    return [
        Curve(number, Points(run.steps["step"], values))
        for number, run in enumerate(runs)
        if (values := run.column(name)) is not None
    ]


def _loss_curves(runs: Sequence[RunHistory]) -> list[Curve]:
    curves = _noisy(runs, loss="")
    for number, run in enumerate(runs):
        if "loss" in run.undone:
            undone = _with_gaps(run.undone["step"], run.undone["loss"])
            curves.append(Curve(number, undone, "rolled back", ":"))
    return curves


def _with_gaps(steps: Numbers, values: Numbers) -> Points:
    """A gap wherever the steps go back: there another roll-back begins."""
    places = np.flatnonzero(np.diff(steps) <= 0) + 1
    return Points(np.insert(steps, places, np.nan), np.insert(values, places, np.nan))


def _t_panel(runs: Sequence[RunHistory]) -> Panel:
    curves, adaptive = [], False
    for number, run in enumerate(runs):
        if (values := run.column("t")) is None or run.column("teacher_kl") is None:
            continue  # without a teacher t means nothing
        steps = run.steps["step"]
        curves.append(Curve(number, Points(steps, values), "t", wide=True))
        if run.config is not None:
            schedule, total = t_schedule(run.config.loss), run.config.total_steps
            adaptive |= schedule.schedule == "adaptive"
            some = thinned(Points(steps, steps), 400).x
            expected = np.array([expected_t(schedule, int(step), total) for step in some])
            curves.append(Curve(number, Points(some, expected), "expected", ":"))
    note = (
        "expected: 1 − (1 − t₀)·exp(−αn/2) after n updates, or the line to its end where that "
        "is above"
        if adaptive
        else "expected: what the schedule says"
    )
    return Panel("t", "t, the teacher's share of the mixture", "", curves, note=note)


def _flops_panel(runs: Sequence[RunHistory], peak_tflops: float | None) -> Panel:
    """MFU where the peak of every run is known, else what was reached."""
    found = [
        (number, reached)
        for number, run in enumerate(runs)
        if (reached := throughput(run, peak_tflops)) is not None
    ]
    counted = "operations of the models alone: what is computed again does not count"
    if found and all(reached.utilisation is not None for _, reached in found):
        curves = [
            Curve(number, Points(runs[number].steps["step"], 100 * reached.utilisation), noisy=True)
            for number, reached in found
            if reached.utilisation is not None
        ]
        unit = f"% of {peak_tflops:g} TFLOP/s" if peak_tflops else "% of dense bf16"
        title = "Model FLOP/s utilisation"
        return Panel("mfu", title, unit, curves, from_zero=True, note=counted)
    top = max((float(np.nanmax(r.tflops_per_rank)) for _, r in found), default=0.0)
    unit, factor = ("TFLOP/s", 1.0) if top >= 1 else ("GFLOP/s", 1e3)
    curves = [
        Curve(number, Points(runs[number].steps["step"], factor * r.tflops_per_rank), noisy=True)
        for number, r in found
    ]
    note = f"{counted}; no MFU: the peak is not known (--peak-tflops)"
    title = f"{unit} reached by a rank"
    return Panel("flops", title, unit, curves, from_zero=True, note=note)

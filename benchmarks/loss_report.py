"""What `loss.py` found: a table, a file of it, and a picture."""

import csv
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loss_case import IMPLEMENTATIONS, Case, Measured
from rivals import REFERENCE_NOTES


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    case: Case
    measured: Measured

    def beside(self, rows: list["Row"], implementation: str) -> "Row | None":
        """Another implementation's measurement of the same; the matrix products are everyone's."""
        for other in rows:
            if (
                other.case.implementation == implementation
                and other.case.objective in ("", self.case.objective)
                and (other.case.tokens, other.case.vocabulary)
                == (self.case.tokens, self.case.vocabulary)
            ):
                return other
        return None

    def ratios(self, rows: list["Row"]) -> tuple[float, float]:
        """Time by that of the matrix products, memory by the reference's; NaN where unknown."""
        gemms, reference = self.beside(rows, "gemms"), self.beside(rows, "reference")
        return (
            self.measured.cost / gemms.measured.cost if gemms else math.nan,
            self.measured.peak_mib / reference.measured.peak_mib if reference else math.nan,
        )


def print_table(rows: list[Row]) -> None:
    """All rows, and what must be known to read them."""
    print(
        f"\n{'objective':16s}{'':13s}{'T':>2s}{'N':>8s}{'V':>9s}{'seconds':>9s}{'busy':>8s}{'/gemms':>8s}"
        f"{'peak MiB':>10s}{'/reference':>12s}{'loss':>10s}{'error':>9s}"
    )
    for row in rows:
        case, measured = row.case, row.measured
        slower, smaller = row.ratios(rows)
        print(
            f"{case.objective:16s}{case.implementation:13s}{case.tp:2d}{case.tokens:8,d}"
            f"{case.vocabulary:9,d}{measured.seconds:9.3f}"
            f"{known(measured.busy_seconds, '.2f'):>8s}{known(slower, '.2f'):>8s}"
            f"{measured.peak_mib:10,.0f}{known(smaller, '.3f'):>12s}"
            f"{known(measured.loss, '.6f'):>10s}{known(measured.error, '.0e'):>9s}"
        )
    compared = [row.case.objective for row in rows if row.case.implementation == "reference"]
    for objective in dict.fromkeys(compared):
        if objective in REFERENCE_NOTES:
            print(f"reference, {objective}: {REFERENCE_NOTES[objective]}")


def known(value: float, form: str) -> str:
    """A number, or a dash for NaN."""
    return "-" if math.isnan(value) else format(value, form)


def write_csv(rows: list[Row], path: Path) -> None:
    """A line for each row, with all that was set."""
    lines = []
    for row in rows:
        slower, smaller = row.ratios(rows)
        case = {name: value for name, value in asdict(row.case).items() if name != "taid"}
        ratios = {"seconds_by_gemms": slower, "peak_by_reference": smaller}
        lines.append({**case, **asdict(row.measured), **ratios})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    print(f"written: {path}")


def draw(rows: list[Row], path: Path) -> None:
    """Bars of time and of peak memory, a line of the picture for each N and V."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = list(dict.fromkeys((row.case.tokens, row.case.vocabulary) for row in rows))
    objectives = list(dict.fromkeys(row.case.objective for row in rows if row.case.objective))
    figure, axes = pyplot.subplots(
        len(sizes),
        2,
        figsize=(max(10.0, 2.4 * len(objectives)), 3.6 * len(sizes)),
        squeeze=False,
        layout="constrained",
    )
    for (tokens, vocabulary), (left, right) in zip(sizes, axes, strict=True):
        here = [r for r in rows if (r.case.tokens, r.case.vocabulary) == (tokens, vocabulary)]
        for axis, name in ((left, "cost"), (right, "peak_mib")):
            draw_bars(axis, here, objectives, name)
            axis.set_xticks(range(len(objectives)), [o.replace("_", "\n") for o in objectives])
        left.set(ylabel="seconds (CPU: busy)", title=f"N = {tokens:,}, V = {vocabulary:,}: time")
        right.set(ylabel="MiB beyond inputs and weights", title="peak memory")
    handles, labels = axes[0][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.savefig(path, dpi=120)
    print(f"drawn: {path}")


def draw_bars(axis: Any, rows: list[Row], objectives: list[str], name: str) -> None:
    """A group of bars for each objective; the matrix products stand in all of them."""
    order = sorted(rows, key=lambda row: IMPLEMENTATIONS.index(row.case.implementation))
    labels = list(dict.fromkeys(label(row) for row in order))
    width = 0.85 / len(labels)
    for place, own in enumerate(labels):
        bars = {
            index + (place - len(labels) / 2 + 0.5) * width: getattr(row.measured, name)
            for row in rows
            for index, objective in enumerate(objectives)
            if label(row) == own and row.case.objective in ("", objective)
        }
        axis.bar(list(bars), list(bars.values()), width, label=own, color=f"C{place}")


def label(row: Row) -> str:
    """Of a bar."""
    case = row.case
    return case.implementation if case.tp == 1 else f"{case.implementation}, T = {case.tp}"

"""From runs to files: the page and its pictures."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from taidscale.durable import replace_file
from taidscale.report.drawing import Drawn, draw
from taidscale.report.history import RunHistory
from taidscale.report.page import Section, page
from taidscale.report.panels import (
    Panel,
    evaluation_panels,
    held_out_names,
    time_panels,
    training_panels,
)

PAGE = "report.html"


def arrange(runs: Sequence[RunHistory], peak_tflops: float | None) -> list[tuple[str, list[Panel]]]:
    """All panels, under headings."""
    held_out = [p for name in held_out_names(runs) for p in evaluation_panels(runs, name)]
    sections = [
        ("Training", training_panels(runs, peak_tflops) + time_panels(runs)),
        ("Held-out data", held_out),
    ]
    return [(heading, panels) for heading, panels in sections if panels]


def write_report(
    runs: Sequence[RunHistory],
    out: Path,
    *,
    peak_tflops: float | None = None,
    reload_seconds: float | None = None,
    progress: Callable[[Sequence[Panel]], Iterable[Panel]] = lambda panels: panels,
) -> list[Path]:
    """Draw everything into a folder; each file appears whole.

    Args:
        runs: to lay over each other; each has steps.
        out: the folder, which exists.
        peak_tflops: of one rank, where its GPU is not known by name.
        reload_seconds: after which the page looks for a newer one.
        progress: gives the panels back while it shows how far they are.

    Returns:
        The page and the pictures.

    Raises:
        OSError: if one cannot be written.
    """
    sections = arrange(runs, peak_tflops)
    drawn: dict[str, tuple[Panel, Drawn, Drawn | None]] = {}
    for panel in progress([panel for _, panels in sections for panel in panels]):
        picture = draw(panel, runs)
        drawn[panel.key] = (panel, picture, draw(panel, runs, log=True) if panel.log else None)
        replace_file(out / f"{panel.key}.png", picture.png, shared=True)
    finished: list[Section] = [
        (heading, [drawn[panel.key] for panel in panels]) for heading, panels in sections
    ]
    text = page(
        runs, finished, peak_tflops=peak_tflops, now=time.time(), reload_seconds=reload_seconds
    )
    replace_file(out / PAGE, text, shared=True)
    return [out / PAGE, *(out / f"{key}.png" for key in drawn)]

"""How long are the pieces of documents, in a drawing?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taidscale.data.contents import length_histogram
from taidscale.durable import written_aside

PIECES, TOKENS = "#4477aa", "#ddaa33"


@dataclass(frozen=True)
class Panel:
    """One data set.

    Args:
        title: Its name.
        details: In small letters.
        lengths: [P] tokens of each piece.
    """

    title: str
    details: str
    lengths: NDArray[np.int64]


def import_pyplot() -> Any:
    """matplotlib, which nothing else needs.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import matplotlib  # optional
    except ImportError as error:
        raise ValueError(
            "drawing needs matplotlib; install it (pip install matplotlib) or do not draw"
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw_lengths(panels: Sequence[Panel], path: str | Path) -> None:
    """Write a PNG: the shares of the pieces and of their tokens that each length has.

    Args:
        panels: One below the other.
        path: Of the file.

    Raises:
        ValueError: matplotlib is not installed.
    """
    pyplot = import_pyplot()
    figure, axes = pyplot.subplots(
        len(panels),
        1,
        sharex=True,
        squeeze=False,
        figsize=(8, 1.3 + 2.1 * len(panels)),
        layout="constrained",
    )
    longest = max(int(panel.lengths.max()) for panel in panels)
    for panel, axis in zip(panels, axes[:, 0], strict=True):
        names, *shares = zip(*length_histogram(panel.lengths, longest), strict=True)
        place = np.arange(len(names))
        axis.bar(place - 0.21, shares[0], 0.42, color=PIECES, label="share of the pieces", zorder=2)
        axis.bar(place + 0.21, shares[1], 0.42, color=TOKENS, label="of their tokens", zorder=2)
        axis.set_title(_shorten(panel.title), loc="left", fontweight="bold", fontsize=10)
        middle, mean = np.median(panel.lengths), panel.lengths.mean()
        axis.set_title(
            f"median {middle:,.0f}, mean {mean:,.0f}; {panel.details}",
            loc="right",
            fontsize=8,
            color="dimgray",
        )
        axis.yaxis.set_major_locator(pyplot.MaxNLocator(4))
        axis.yaxis.set_major_formatter("{x:g} %")
        axis.grid(axis="y", color="gainsboro", linewidth=0.6, zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
    shortest = min(int(panel.lengths.min()) for panel in panels)
    bottom = axes[-1, 0]
    bottom.set_xticks(place, names, rotation=30, ha="right", fontsize=8)
    bottom.set_xlim(shortest.bit_length() - 1.6, len(names) - 0.4)
    bottom.set_xlabel("tokens of a piece of a document")
    handles, labels = bottom.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
    with written_aside(Path(path)) as aside:
        figure.savefig(aside, dpi=150, format="png")
    pyplot.close(figure)


def _shorten(title: str) -> str:
    return title if len(title) <= 40 else f"…{title[-39:]}"

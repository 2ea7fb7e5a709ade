"""How t moved in a run, and how far the student was from the teacher: drawn, or as a table."""

import io
from typing import Any

from taidscale.publishing.card import table

CURVE = "t.png"
_ROWS = 5
"""Of the table."""


def draw_t(metrics: list[dict[str, Any]]) -> bytes | None:
    """A PNG of t and of the KL to the teacher by step; None without matplotlib.

    Args:
        metrics: lines of `metrics.jsonl`.
    """
    try:
        from matplotlib.figure import Figure  # an optional dependency
    except ImportError:
        return None
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    steps = [entry["step"] for entry in metrics]
    above.plot(steps, [entry["t"] for entry in metrics], color="#b5541c")
    above.set_ylabel("t")
    above.set_ylim(0, 1.05)
    below.plot(steps, [entry["teacher_kl"] for entry in metrics], color="#1f5f8b", linewidth=0.9)
    below.set_ylabel("KL to the teacher\n[nats/token]")
    below.set_ylim(bottom=0)
    below.set_xlabel("optimizer step")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150, metadata={"Software": None})
    return picture.getvalue()


def t_table(metrics: list[dict[str, Any]]) -> str:
    """The same in a few rows, from the first step to the last."""
    last = len(metrics) - 1
    places = sorted({round(last * number / (_ROWS - 1)) for number in range(_ROWS)})
    chosen = [metrics[place] for place in places]
    rows = [[f"{m['step']:,}", f"{m['t']:.4f}", f"{m['teacher_kl']:.4f}"] for m in chosen]
    return table([["step", "t", "KL to the teacher [nats/token]"], *rows])

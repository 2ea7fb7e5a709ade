"""Tables that a terminal and a model card can show."""

import unicodedata
from collections.abc import Mapping, Sequence

from taidscale.assessment.scores import Score, difference_stderr
from taidscale.assessment.subjects import TITLES, Role

Cells = list[str]


def score_table(scores: Mapping[Role, Sequence[Score]], min_errors: float) -> list[Cells]:
    """A head and a row for each task and metric: models side by side, and what changed.

    Args:
        scores: Of each model.
        min_errors: Standard errors beyond which a loss is marked.
    """
    roles = list(scores)
    by_key = {
        role: {(score.task, score.metric): score for score in found}
        for role, found in scores.items()
    }
    # The teacher lacks what compares with it; the student after has everything, in order.
    keys = dict.fromkeys(key for role in reversed(roles) for key in by_key[role])
    compared = "before" in by_key and "after" in by_key
    head = ["task", "metric", *(TITLES[role] for role in roles)]
    table = [head + ["change"] * compared]
    for key in keys:
        cells = [_value(by_key[role].get(key)) for role in roles]
        if compared:
            cells.append(_change(by_key["before"].get(key), by_key["after"].get(key), min_errors))
        table.append([*key, *cells])
    return table


def _value(score: Score | None) -> str:
    if score is None:
        return "-"
    error = "" if score.stderr is None else f" ± {score.stderr:.3f}"
    return f"{score.value:.3f}{error}"


def _change(before: Score | None, after: Score | None, min_errors: float) -> str:
    if before is None or after is None:
        return "-"
    difference, stderr = after.value - before.value, difference_stderr(before, after)
    shown = f"{difference:+.3f}" + ("" if stderr is None else f" ± {stderr:.3f}")
    loss = -difference if after.higher_is_better else difference
    return shown + (" ▼" if stderr is not None and loss > min_errors * stderr else "")


def as_text(table: Sequence[Cells], *, names: int = 2) -> str:
    """For a terminal: the first columns to the left, the others to the right."""
    widths = [max(_width(row[k]) for row in table) for k in range(len(table[0]))]
    lines = []
    for row in table:
        cells = []
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _width(cell))
            cells.append(cell + space if number < names else space + cell)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_markdown(table: Sequence[Cells], *, names: int = 2) -> str:
    """For a model card."""
    head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in table]
    rule = ["---" if number < names else "---:" for number in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)) + "\n"


def _width(text: str) -> int:
    """Columns of a terminal: a Japanese character takes two."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)

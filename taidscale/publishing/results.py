"""Results of an evaluation from a file, as a section of a model card."""

import json
import re
from pathlib import Path
from typing import Any

from taidscale.publishing.card import table


def results_section(path: Path) -> str:
    """A section from Markdown, or from JSON: `lm_eval`'s results, or figures by task and metric.

    Raises:
        ValueError: if it cannot be read, or holds no figures.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--evaluation: cannot read {path}: {error}") from None
    match path.suffix:
        case ".md":
            content = _nested(text)
        case ".json":
            content = _from_json(text, path)
        case _:
            raise ValueError(f"--evaluation: {path} is neither .md nor .json")
    if not content.strip():
        raise ValueError(f"--evaluation: {path} holds no results")
    return f"## Evaluation\n\n{content.strip()}"


def _nested(text: str) -> str:
    """Headings one or two levels down, below that of the section; not those in code."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    lines, in_code = [], False
    for line in text.splitlines():
        in_code ^= line.lstrip().startswith("```")
        is_heading = not in_code and re.match(r"#{1,4} ", line)
        lines.append(f"##{line}" if is_heading else line)
    return "\n".join(lines)


def _from_json(text: str, path: Path) -> str:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--evaluation: {path} is not JSON: {error}") from None
    results = content.get("results", content) if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise ValueError(f"--evaluation: {path} holds no object of results by task")
    rows = [row for task, figures in results.items() for row in _rows(task, figures)]
    return table([["task", "metric", "value"], *rows]) if rows else ""


def _rows(task: str, figures: Any) -> list[list[str]]:
    """A row for each metric; `lm_eval` names them METRIC,FILTER and METRIC_stderr,FILTER."""
    if _is_number(figures):
        return [[task, "", f"{figures:.4f}"]]
    if not isinstance(figures, dict):
        return []
    rows = []
    for name, value in figures.items():
        metric, _, kind = name.partition(",")
        if not _is_number(value) or metric.endswith("_stderr"):
            continue
        error = figures.get(f"{metric}_stderr,{kind}" if kind else f"{metric}_stderr")
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        label = metric if kind in ("", "none") else f"{metric} ({kind})"
        rows.append([task, label, f"{shown} ± {error:.4f}" if _is_number(error) else shown])
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""What the files are called to which a run writes a line a step, and which lines still hold."""

import json
import os
from pathlib import Path

METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
EVENTS_FILE = "events.jsonl"
UNDONE_FILE = "undone.jsonl"


def drop_steps_after(path: Path, last_step: int) -> list[str]:
    """Remove lines of steps that will be done again, and a line that a crash cut short.

    Returns:
        The whole ones among them.
    """
    if not path.exists():
        return []
    kept: list[str] = []
    dropped: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            (kept if json.loads(line)["step"] <= last_step else dropped).append(line + "\n")
        except json.JSONDecodeError:
            continue
    aside = path.with_suffix(".partial")
    aside.write_text("".join(kept), encoding="utf-8")
    os.replace(aside, path)
    return dropped

"""What is there to know of one run, from the files in its folder?

Nothing is written and no lock is touched: the folder may be that of a run that goes on, on another
machine, or a copy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taidscale.config.load import ConfigError, flat_settings, load_config
from taidscale.config.schema import RunConfig
from taidscale.file_names import (
    CONFIG_FILE,
    EVALUATIONS_FILE,
    EVENTS_FILE,
    METRICS_FILE,
    UNDONE_FILE,
)
from taidscale.metrics.run_files import read_entries
from taidscale.report.lines import GrowingColumns, Numbers, is_number
from taidscale.run.status import RunStatus

SILENT_SECONDS = 900.0
"""Without a step for so long a run that should be running gets a word about it."""

MEASURES = {
    "teacher_kl": "KL to the teacher",
    "next_token_loss": "next-token loss",
    "top1_agreement": "top-1 agreement",
}
"""Of an evaluation, the first of them decides which one is best."""


@dataclass(frozen=True)
class Event:
    """A line of `events.jsonl`."""

    kind: str
    step: int
    message: str
    unix_seconds: float
    entry: dict[str, Any]
    """All of it."""


@dataclass(frozen=True)
class RunHistory:
    """One run at one moment."""

    name: str
    folder: Path
    config: RunConfig | None
    """None if `config.yaml` is missing, or from another version."""
    settings: dict[str, Any]
    """Every setting by its dotted path."""
    steps: dict[str, Numbers]
    """Columns of `metrics.jsonl`; all of them are as long as `step`, which rises."""
    evaluations: dict[str, dict[str, Numbers]]
    """Of each held-out set, likewise."""
    undone: dict[str, Numbers]
    """Steps that were rolled back, in the order in which they happened."""
    events: list[Event]
    status: RunStatus | None

    def column(self, name: str) -> Numbers | None:
        """A column with at least one number in it."""
        values = self.steps.get(name)
        return values if values is not None and np.isfinite(values).any() else None

    def last(self, name: str) -> float | None:
        """The last number of a column."""
        values = self.column(name)
        return None if values is None else float(values[np.isfinite(values)][-1])

    @property
    def num_steps(self) -> int:
        """Optimizer steps done."""
        return int(self.steps["step"][-1]) if self.steps else 0

    @property
    def ended(self) -> bool:
        """Whether its last start has said that it ended."""
        return self.status is not None and self.status.state in (
            "finished",
            "interrupted",
            "failed",
        )

    def state(self, now: float) -> str:
        """In a few words.

        Args:
            now: seconds since 1970.
        """
        if self.status is None:
            return "unknown"
        if self.ended or self.status.state == "to start":
            return self.status.state
        silent = now - max(self.status.unix_seconds, self.last("unix_seconds") or 0.0)
        return "running" if silent < SILENT_SECONDS else f"silent for {in_words(silent)}"

    def seconds_left(self) -> float | None:
        """Until the last step, at the pace of the last ones; None if it is unknown."""
        seconds = self.column("step_seconds")
        if self.config is None or seconds is None:
            return None
        pace = float(np.nanmedian(seconds[-100:]))
        return max(0, self.config.total_steps - self.num_steps) * pace


class RunReader:
    """Reads a run's folder as often as wanted; of `metrics.jsonl` what is new alone."""

    def __init__(self, folder: Path, name: str) -> None:
        """Look at the folder.

        Raises:
            ValueError: if it is not that of a run.
        """
        self._folder, self._name = folder, name
        self._columns = GrowingColumns(folder / METRICS_FILE)
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; give the run_dir of a run")
        if not any((folder / file).is_file() for file in (CONFIG_FILE, METRICS_FILE)):
            raise ValueError(
                f"{folder} is not a run's folder: it holds neither {CONFIG_FILE} nor "
                f"{METRICS_FILE}; give the run_dir of a run"
            )

    @property
    def num_new_bytes(self) -> int:
        """About as many are to be read."""
        return self._columns.num_new_bytes

    def read(self, progress: Callable[[int], object]) -> RunHistory:
        """The run as it is now.

        Args:
            progress: told the number of bytes read, now and then.
        """
        status = RunStatus.read(self._folder)  # first: if it has ended, the rest is its last word
        config = _config(self._folder / CONFIG_FILE)
        evaluations: dict[str, list[dict[str, Any]]] = {}
        for entry in read_entries(self._folder / EVALUATIONS_FILE):
            evaluations.setdefault(str(entry.get("data", "held-out")), []).append(entry)
        return RunHistory(
            name=self._name,
            folder=self._folder,
            config=config,
            settings=flat_settings(config) if config else {},
            steps=self._columns.read(progress),
            evaluations={name: _columns(entries) for name, entries in evaluations.items()},
            undone=_columns(
                [e for e in read_entries(self._folder / UNDONE_FILE) if "data" not in e]
            ),
            events=_events(self._folder / EVENTS_FILE),
            status=status,
        )


def run_names(folders: list[Path]) -> list[str]:
    """A name for each: that of its folder, with those above it as far as they differ."""
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"{next(f for f in folders if folders.count(f) > 1)} is given twice")


def in_words(seconds: float) -> str:
    """A duration in one unit."""
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:,.0f} seconds"


def _config(path: Path) -> RunConfig | None:
    try:
        return load_config(path)
    except ConfigError:
        return None


def _events(path: Path) -> list[Event]:
    return [
        Event(
            str(entry.get("event", "event")),
            int(entry.get("step", 0)),
            str(entry.get("message", "")),
            float(entry.get("unix_seconds", 0.0)),
            entry,
        )
        for entry in read_entries(path)
    ]


def _columns(entries: list[dict[str, Any]]) -> dict[str, Numbers]:
    entries = [entry for entry in entries if is_number(entry.get("step"))]
    names = {name for entry in entries for name, value in entry.items() if is_number(value)}
    return {
        name: np.array([entry.get(name, np.nan) for entry in entries], dtype=np.float64)
        for name in sorted(names)
    }

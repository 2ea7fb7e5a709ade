"""Which lines of the files still hold to which a run writes a line a step.

Kills, full disks and people leave lines that cannot be read. Nothing but reports reads these
files, so no such line stops a run: each is named and kept in `<file>.damaged`.
"""

import json
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taidscale.durable import flush_to_disk, replace_file
from taidscale.file_names import UNDONE_FILE

log = logging.getLogger(__name__)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None if it has none with a step."""
    try:
        entry = json.loads(line)
    except ValueError:  # cut short, or not even text
        return None
    step = entry.get("step") if isinstance(entry, dict) else None
    is_step = isinstance(step, int | float) and not isinstance(step, bool) and math.isfinite(step)
    return entry if is_step else None


def read_entries(path: Path) -> list[dict[str, Any]]:
    """All entries of a small file; none where it is missing, lines without one are named."""
    if not path.exists():
        return []
    entries, damaged = [], []
    for number, line in _lines(path):
        if (entry := parse_line(line)) is not None:
            entries.append(entry)
        elif line.endswith(b"\n"):  # else it is being written, or was cut short by a kill
            damaged.append(number)
    if damaged:
        log.warning("%s: %s cannot be read; left out", path, _named(damaged))
    return entries


def drop_steps_after(path: Path, last_step: float, undone_before: float = -math.inf) -> None:
    """Remove lines of steps that will be done again, and what cannot be read.

    Args:
        path: of the file; it need not exist.
        last_step: the last one that stays.
        undone_before: seconds since 1970 of a roll-back: steps from before it will not be done
            again; their lines go to `undone.jsonl` first, once each.

    Raises:
        OSError: if the disk is full; then all is as it was, but for `undone.jsonl`.
    """
    if not path.exists():
        return
    kept, undone, damaged, whole = [], [], [], path.read_bytes()
    for number, line in _lines(path):
        entry, is_cut = parse_line(line), not line.endswith(b"\n")
        line += b"\n" if is_cut else b""
        if entry is None:
            damaged += [] if is_cut else [(number, line)]
        elif entry["step"] <= last_step:
            kept.append(line)
        elif entry.get("unix_seconds", math.inf) <= undone_before:
            undone.append(line)
    if damaged:
        log.warning(
            "%s: %s cannot be read; moved to %s.damaged",
            path,
            _named([number for number, _ in damaged]),
            path.name,
        )
        _append_once(path.with_name(f"{path.name}.damaged"), [line for _, line in damaged])
    _append_once(path.with_name(UNDONE_FILE), undone)
    if (content := b"".join(kept)) != whole:
        replace_file(path, content)


class LineFile:
    """A file to which lines are appended; what a full disk refuses is held until there is room.

    Every line is written at once. What is held, some hundred bytes a step, is bounded by the next
    checkpoint, which a full disk fails too.
    """

    def __init__(self, path: Path) -> None:
        """Open it at its end.

        Raises:
            OSError: if it cannot be opened.
        """
        self._path, self._held = path, b""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(self, line: str) -> str | None:
        """Append a line; what people should hear of, where it begins or ceases to be held."""
        was_held, self._held = bool(self._held), self._held + line.encode() + b"\n"
        try:
            while self._held:
                self._held = self._held[os.write(self._file, self._held) :]
        except OSError as error:
            held = f"warning: {self._path.name} cannot be written: {error}; its lines are held"
            return None if was_held else held
        return f"{self._path.name} is written again; no line is missing" if was_held else None

    def close(self) -> str | None:
        """Close it; what people should hear of, if lines are lost."""
        try:
            while self._held:
                self._held = self._held[os.write(self._file, self._held) :]
        except OSError as error:
            num_lines = self._held.count(b"\n")
            return f"warning: the last {num_lines} lines of {self._path.name} are lost: {error}"
        finally:
            os.close(self._file)
        return None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line with its number, from 1."""
    with path.open("rb") as file:
        yield from enumerate(file, start=1)


def _append_once(path: Path, lines: list[bytes]) -> None:
    """Append those that are not there yet: a kill may come between this and what follows."""
    there = set(path.read_bytes().splitlines(keepends=True)) if path.exists() else set()
    if new := [line for line in lines if line not in there]:
        with path.open("ab") as file:
            file.writelines(new)
        flush_to_disk(path)


def _named(numbers: list[int]) -> str:
    some = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"line {some}" if len(numbers) == 1 else f"lines {some}"

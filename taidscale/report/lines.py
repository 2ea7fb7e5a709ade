"""What do the `.jsonl` files of a run hold, though it is still writing them?"""

import logging
import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taidscale.metrics.run_files import parse_line

log = logging.getLogger(__name__)

Numbers = NDArray[np.float64]

PROGRESS_BYTES = 1 << 20


class GrowingColumns:
    """The numbers of a file by name, one for each step; read again, it reads what is new.

    A run that goes back puts another file in the place of the old one: then all is read anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._forget(file_id=None)

    def _forget(self, file_id: int | None) -> None:
        self._file_id, self._offset = file_id, 0
        self._num_lines, self._num_read = 0, 0
        self._columns: dict[str, array[float]] = {}

    @property
    def num_new_bytes(self) -> int:
        """About as many are to be read."""
        try:
            found = self._path.stat()
        except OSError:
            return 0
        same = found.st_ino == self._file_id and found.st_size >= self._offset
        return found.st_size - (self._offset if same else 0)

    def read(self, progress: Callable[[int], object]) -> dict[str, Numbers]:
        """Every column at its newest, NaN where a line lacks it; steps rise.

        Args:
            progress: told the number of bytes read, now and then.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            self._forget(file_id=None)
            return {}
        with file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._file_id or found.st_size < self._offset:
                self._forget(found.st_ino)
            file.seek(self._offset)
            told = self._offset
            for line in file:
                if not line.endswith(b"\n"):
                    break  # the rest is still to come
                self._offset += len(line)
                self._append(line)
                if self._offset - told >= PROGRESS_BYTES:
                    progress(self._offset - told)
                    told = self._offset
            progress(self._offset - told)
        return self._by_step()

    def _append(self, line: bytes) -> None:
        self._num_read += 1
        entry = parse_line(line)
        if entry is None:
            log.warning("%s: line %d cannot be read; left out", self._path, self._num_read)
            return
        for name, value in entry.items():
            if not is_number(value):
                continue
            column = self._columns.setdefault(name, array("d"))
            column.extend([float("nan")] * (self._num_lines - len(column)))
            column.append(value)
        self._num_lines += 1

    def _by_step(self) -> dict[str, Numbers]:
        columns = {}
        for name, column in self._columns.items():
            values = np.full(self._num_lines, np.nan)
            values[: len(column)] = column
            columns[name] = values
        if not columns:
            return {}
        # Should a step be there twice, the later line holds.
        _, backwards = np.unique(columns["step"][::-1], return_index=True)
        kept = self._num_lines - 1 - backwards
        return {name: values[kept] for name, values in columns.items()}


def is_number(value: Any) -> bool:
    """Whether it is one, NaN included; yes and no are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)

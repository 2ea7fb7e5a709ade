"""What is read of files that are still being written, cut short or replaced."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from taidscale.metrics.run_files import read_entries
from taidscale.report.lines import GrowingColumns


def line(step: int, **figures: Any) -> str:
    return json.dumps({"step": step, **figures}) + "\n"


def read(columns: GrowingColumns) -> dict[str, list[float]]:
    told: list[int] = []
    due = columns.num_new_bytes
    found = {name: values.tolist() for name, values in columns.read(told.append).items()}
    assert sum(told) <= due
    return found


def test_a_line_that_is_still_being_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole, half = line(1, loss=2.5), line(2, loss=1.25)
    path.write_text(whole + half[:9])
    columns = GrowingColumns(path)
    assert read(columns) == {"step": [1], "loss": [2.5]}
    with path.open("a") as file:
        file.write(half[9:] + line(3, loss=0.5))
    # What was read before is not read again.
    assert columns.num_new_bytes == len(half) + len(line(3, loss=0.5))
    assert read(columns) == {"step": [1, 2, 3], "loss": [2.5, 1.25, 0.5]}
    assert columns.num_new_bytes == 0
    assert read(columns) == {"step": [1, 2, 3], "loss": [2.5, 1.25, 0.5]}


def test_a_run_that_goes_back_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(step, loss=9.0) for step in range(1, 6)))
    columns = GrowingColumns(path)
    assert read(columns)["step"] == [1, 2, 3, 4, 5]
    aside = tmp_path / "metrics.partial"
    aside.write_text("".join(line(step, loss=1.0) for step in range(1, 8)))
    os.replace(aside, path)
    assert read(columns) == {"step": [*range(1, 8)], "loss": [1.0] * 7}
    path.unlink()
    assert read(columns) == {}


def test_numbers_that_are_not_there_or_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        line(1, loss=math.nan, name="text", switch=True)
        + '{"step": 2, "loss": 0.\n'
        + "\n[]\n"
        + line(2, loss=2.0, late=7.0)
        + line(3, loss=math.inf)
    )
    found = GrowingColumns(path).read(lambda _: None)
    assert found.keys() == {"step", "loss", "late"}
    np.testing.assert_equal(found["loss"], [math.nan, 2.0, math.inf])
    np.testing.assert_equal(found["late"], [math.nan, 7.0, math.nan])


def test_of_a_step_that_is_there_twice_the_later_line_holds(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, loss=1.0) + line(2, loss=2.0) + line(1, loss=3.0))
    assert read(GrowingColumns(path)) == {"step": [1, 2], "loss": [3.0, 2.0]}


def test_entries_of_small_files(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_entries(path) == []
    path.write_bytes(b'{"event": "start", "step": 0}\n\xff\xfe\n{"event": "spi')
    assert read_entries(path) == [{"event": "start", "step": 0}]

"""What a run records of some steps, and that later starts leave it alone."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from taidscale.config.profile import ProfileConfig
from taidscale.metrics.profiler import Operation, Profiler, table_lines
from tests.ranks import run_on_ranks
from tests.runs import make_run

CPU = torch.device("cpu")


def events(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        found: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return found


def counts(profiler: Profiler, steps: range) -> None:
    """Step n multiplies matrices n times."""
    matrix = torch.ones(64, 64)
    for step in steps:
        profiler.before_step(step)
        for _ in range(step):
            matrix @ matrix
        profiler.after_step(step)


def num_products(path: Path) -> int:
    return sum(event.get("name") == "aten::mm" for event in events(path))


@pytest.mark.parametrize(("begin", "products"), [(1, 2 + 3 + 4), (3, 3 + 4)])
def test_the_window_or_the_rest_of_it(tmp_path: Path, begin: int, products: int) -> None:
    profiler = Profiler(ProfileConfig(steps=(2, 4)), tmp_path, rank=3, device=CPU)
    counts(profiler, range(begin, 7))
    counts(profiler, range(2, 6))  # rolled back: not again
    (trace,) = (tmp_path / "profile").iterdir()
    assert trace.name == "rank-00003.json.gz"
    assert num_products(trace) == products


@pytest.mark.parametrize("config", [None, ProfileConfig(steps=(2, 4))])
def test_nothing_without_a_window_or_after_it(tmp_path: Path, config: ProfileConfig | None) -> None:
    profiler = Profiler(config, tmp_path, rank=0, device=CPU)
    counts(profiler, range(5, 8) if config else range(1, 8))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "profile").write_text("in the way")
    counts(Profiler(ProfileConfig(steps=(1, 1)), tmp_path, rank=2, device=CPU), range(1, 3))
    assert "rank 2: the profile could not be written" in caplog.text


def test_a_run_that_ends_within_the_window(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profiler = Profiler(ProfileConfig(steps=(2, 4)), tmp_path, rank=0, device=CPU)
    counts(profiler, range(1, 4))
    profiler.close()
    assert "the run ends before step 4, and nothing is written" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_the_ten_dearest_with_their_share_of_all() -> None:
    operations = [Operation(f"op{n}", n, 16.0 - n) for n in range(1, 16)]
    heading, *rows = table_lines(operations)
    assert heading.split() == ["operation", "calls", "seconds", "share"]
    assert len(rows) == 10
    assert rows[0].split() == ["op1", "1", "15.0000", "12.5%"]  # of 120


def test_a_run(tmp_path: Path) -> None:
    config = make_run(
        tmp_path, total_steps=4, profile={"steps": [2, 3]}, checkpoint={"every_steps": 4}
    )
    run_on_ranks(2, "tests.runs", "train_quietly", {"arguments": [str(config)]})
    folder = tmp_path / "run" / "profile"
    names = ["rank-00000.json.gz", "rank-00001.json.gz", "table.txt"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in names[:2]:
        assert num_products(folder / name) > 0
    title, _, *rows = (folder / "table.txt").read_text().splitlines()
    assert title == "steps 2 to 3 of rank 0, seconds of the CPU"
    assert len(rows) == 10
    shares = [float(row.split()[-1].rstrip("%")) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert 10 < sum(shares) <= 100.5
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    longer = [str(config), "total_steps=5"]
    run_on_ranks(2, "tests.runs", "train_quietly", {"arguments": longer})
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before

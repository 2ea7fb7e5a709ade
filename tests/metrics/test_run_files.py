"""No line of a run is lost to a full disk, a kill or another line that is damaged."""

import json
import logging
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from taidscale.metrics.run_files import LineFile, drop_steps_after, read_entries
from taidscale.metrics.wandb_id import wandb_id


@contextmanager
def no_file_larger_than(num_bytes: int) -> Iterator[None]:
    """What a full disk does, part of a line included."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def lines(*steps: int, seconds: float = 0.0) -> bytes:
    entries = [{"step": step, "loss": step / 4, "unix_seconds": seconds + step} for step in steps]
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def steps_of(path: Path) -> list[int]:
    return [entry["step"] for entry in read_entries(path)]


def test_lines_are_held_while_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file, said = LineFile(path), []
    rows = lines(*range(100)).decode().splitlines()
    for number, row in enumerate(rows):
        with no_file_larger_than(1000 if 10 <= number < 60 else 10**9):
            said.append(file.write(row))
    file.close()
    assert path.read_text().splitlines() == rows
    first, second = filter(None, said)
    assert first.startswith("warning: metrics.jsonl cannot be written: ")
    assert first.endswith("its lines are held")
    assert second == "metrics.jsonl is written again; no line is missing"


def test_lines_that_are_lost_at_the_end_are_counted(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "metrics.jsonl")
    with no_file_larger_than(100):
        for row in lines(*range(10)).decode().splitlines():
            file.write(row)
        said = file.close()
    assert said is not None
    assert said.startswith("warning: the last 8 lines of metrics.jsonl are lost: ")


def test_damaged_lines_are_named_and_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    bad = [b"13\n", b'{"step": "x"}\n', b"\xff\xfe\n", b'{"step": NaN}\n', b"[1]\n"]
    path.write_bytes(lines(1) + b"".join(bad) + lines(2, 3) + b'{"step": 4, "lo')
    with caplog.at_level(logging.WARNING):
        drop_steps_after(path, 2)
    assert path.read_bytes() == lines(1, 2)
    assert path.with_name("metrics.jsonl.damaged").read_bytes() == b"".join(bad)
    (record,) = caplog.records
    expected = f"{path}: lines 2, 3, 4, 5, 6 cannot be read; moved to metrics.jsonl.damaged"
    assert record.getMessage() == expected


def test_readers_name_damaged_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(lines(1) + b"\xff\n" + lines(2) + b'{"step": 3')
    with caplog.at_level(logging.WARNING):
        assert steps_of(path) == [1, 2]
    assert [r.getMessage() for r in caplog.records] == [f"{path}: line 2 cannot be read; left out"]


def test_undone_steps_survive_a_kill_after_the_roll_back(tmp_path: Path) -> None:
    path, undone = tmp_path / "metrics.jsonl", tmp_path / "undone.jsonl"
    path.write_bytes(lines(*range(1, 16)))
    # Killed here, after `roll_backs.json` was written at second 15.5; the next start:
    drop_steps_after(path, 10, undone_before=15.5)
    assert steps_of(path) == [*range(1, 11)]
    assert steps_of(undone) == [*range(11, 16)]
    # Killed between the two files, the next start writes none of them twice.
    path.write_bytes(lines(*range(1, 16)))
    drop_steps_after(path, 10, undone_before=15.5)
    assert steps_of(undone) == [*range(11, 16)]
    # Steps done after the roll-back, which a crash undoes, will be done again.
    path.write_bytes(lines(*range(1, 11)) + lines(11, 12, seconds=100))
    drop_steps_after(path, 10, undone_before=15.5)
    assert steps_of(path) == [*range(1, 11)]
    assert steps_of(undone) == [*range(11, 16)]


def test_an_id_is_kept_by_a_run_and_not_by_its_copy(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    own = wandb_id(run)
    assert wandb_id(run) == own
    shutil.copytree(run, tmp_path / "copy")
    other = wandb_id(tmp_path / "copy")
    assert other != own
    assert wandb_id(tmp_path / "copy") == other
    run.rename(tmp_path / "moved")
    assert wandb_id(tmp_path / "moved") == own


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"a b"])
def test_a_damaged_id_is_replaced(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "wandb_id").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        own = wandb_id(tmp_path)
    assert f"{tmp_path / 'wandb_id'} holds no id" in caplog.text
    assert wandb_id(tmp_path) == own

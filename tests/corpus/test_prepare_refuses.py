"""What stops a preparation, and what stays."""

import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import tests.ranks  # noqa: F401  its fork server has the big libraries imported
from taidscale.data.manifest import check_hashes
from tests.corpus.prepared import content
from tests.small_disk import small_disk


def test_one_at_a_time(make: Any, tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def wait(progress: Any) -> None:
        entered.set()
        leave.wait(600)

    first = threading.Thread(target=make, args=(tmp_path / "out",), kwargs={"progress": wait})
    first.start()
    assert entered.wait(600)
    with pytest.raises(ValueError, match=rf"out\.partial is in use by process {os.getpid()}; "):
        make(tmp_path / "out")
    leave.set()
    first.join()
    assert check_hashes(tmp_path / "out")


def test_unusable_lock(make: Any, tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    """Some shared file systems know no locks."""

    def refuse(*arguments: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    make(tmp_path / "out")
    assert "start this only once" in caplog.text


def test_broken_record(make: Any, corpus: list[str], tmp_path: Path) -> None:
    with (tmp_path / "b.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(ValueError, match=r"b\.jsonl, line 91: broken JSON"):
        make(tmp_path / "out", num_workers=1)
    assert list((tmp_path / "out.partial" / "parts").glob("*.json"))
    manifest = make(tmp_path / "other", encoding={"on_error": "skip"})
    assert sum(manifest.counts.skipped.values()) == 1
    assert "b.jsonl, line 91" in manifest.counts.places[0]
    assert manifest.settings["encoding"]["on_error"] == "skip"


def test_refused_before_work(make: Any, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "precious").write_text("do not lose me")
    for changes, says in (
        ({"out": tmp_path / "used"}, "used exists already"),
        ({"seq_len": 0}, r"--seq-len \(0\) must be positive"),
        ({"separator_id": 300}, "--separator-id 300 is not an id"),
        ({"inputs": ["absent.jsonl"]}, r"no file matches absent\.jsonl"),
        ({"out": "s3://bucket/data"}, "choose a local folder with --scratch"),
        ({"out": "ftp://host/data", "scratch": tmp_path}, "cannot write to ftp://host/data"),
        ({"out": "/proc/1/new/out"}, r"out\.partial cannot be made \(.*choose another output"),
        ({"seq_len": 10**6}, "fewer than one sample of 1000001"),
    ):
        with pytest.raises(ValueError, match=says):
            make(**{"out": tmp_path / "out"} | changes)
    assert (tmp_path / "used" / "precious").read_text() == "do not lose me"
    assert not list(tmp_path.glob("*.partial"))
    assert not (tmp_path / "out").exists()


def test_full_disk(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "whole")
    for num_workers in (0, 1):
        with small_disk(tmp_path / str(num_workers), "400k") as disk:
            fill_and_make_room(make, disk, num_workers)
            assert content(disk / "out") == content(tmp_path / "whole")


def fill_and_make_room(make: Any, disk: Path, num_workers: int) -> None:
    out = disk / "out"
    says = r"the disk of \S*out\.partial is full; make room: finished parts stay"
    (disk / "others").write_bytes(bytes(300_000))
    with pytest.raises(ValueError, match=says):
        make(out, num_workers=num_workers)
    assert not out.exists()
    assert list((disk / "out.partial" / "parts").glob("*.json"))
    (disk / "others").unlink()
    make(out, num_workers=num_workers)

"""Fetching shards from a bucket, whatever happens on the way: right samples, or an error."""

# ruff: noqa: F811 (fixtures are imported)

import shutil
import threading
import time
from pathlib import Path

import pytest
import xxhash

from taidscale.data.dataset import SampleDataset
from taidscale.data.remote import CheckedStream
from tests.data.faulty_bucket import Answer, Corrupt, Cut, Delay, Shorten, Stall
from tests.data.shards_in_bucket import (  # noqa: F401
    FIRST,
    QUICK,
    SAMPLES,
    bucket,
    data,
    files,
    read,
    remote,
    server,
    write_shards,
)

# --- what may happen to a download ----------------------------------------------------

FAULTS = [  # what, GETs of the shard until it is here or given up, error
    ("nothing", [], 1, None),
    ("throttled", [Answer(503, "SlowDown")] * 2, 3, None),
    ("server error", [Answer(500, "InternalError")] * 2, 3, None),
    ("server error, for longer", [Answer(500, "InternalError")] * 7, 8, None),
    ("server error, always", [Answer(500, "InternalError")] * 99, 9, "InternalError"),
    ("not there", [Answer(404, "NoSuchKey")] * 99, 3, "NoSuchKey"),
    ("forbidden", [Answer(403, "AccessDenied")] * 99, 3, "AccessDenied"),
    ("cut", [Cut(0), Cut(100)], 3, None),
    ("cut, always", [Cut(100)] * 99, 15, "100 read.*correct remote"),
    ("short", [Shorten(100)] * 2, 3, None),
    ("short, always", [Shorten(100)] * 99, 3, "100 bytes instead of 661; upload it again"),
    ("corrupt", [Corrupt()] * 2, 3, None),
    ("corrupt, always", [Corrupt()] * 99, 3, "xxh64 [0-9a-f]{16} instead of [0-9a-f]{16}; upload"),
    ("silent", [Stall(600)], 2, None),
    ("silent within the body", [Stall(600, after=100)], 2, None),
    ("slow", [Delay(0.3)], 1, None),
    ("all of it", [Cut(5), Corrupt(), Answer(500, "InternalError"), Shorten(0)], 5, None),
]


@pytest.mark.parametrize(
    ("faults", "num_gets", "error"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_faults(bucket, remote, tmp_path, faults, num_gets, error, request):
    shards = SampleDataset([CheckedStream(tmp_path, remote, **QUICK)])
    bucket.faults[f"data/{FIRST}"].extend(faults)
    start = time.monotonic()
    if error is None:
        read(shards, range(8))
        assert files(tmp_path) == {"index.json", FIRST}
    else:
        with pytest.raises(RuntimeError, match=f"{FIRST} .attempt 3 of 3.*{error}"):
            shards[0]
        assert files(tmp_path) == {"index.json"}  # the damaged file never had its name
        bucket.faults.clear()
        read(shards, range(8))  # nothing is in the way of who tries again
        num_gets += 1
    print(f"{request.node.callspec.id}: {num_gets} GETs, {time.monotonic() - start:.1f} s")
    assert bucket.gets(f"data/{FIRST}") == num_gets


def test_silent_for_ever(bucket, remote, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # botocore pauses longer than we wait
    quick = QUICK | {"download_timeout": 0.2, "download_retry": 1}
    shards = SampleDataset([CheckedStream(tmp_path, remote, **quick)])
    bucket.faults[f"data/{FIRST}"].extend([Stall(600)] * 99)
    with pytest.raises(RuntimeError, match=r"ReadTimeoutError.*download_timeout"):
        shards[0]
    assert bucket.gets(f"data/{FIRST}") == 2 * 5


def test_refused(bucket, remote, tmp_path):
    shards = SampleDataset([CheckedStream(tmp_path, remote, **QUICK)])
    bucket.refuse()
    with pytest.raises(RuntimeError, match=r"EndpointConnectionError.*correct remote"):
        shards[0]
    back = threading.Timer(0.5, bucket.start)
    back.start()
    read(
        SampleDataset(
            [CheckedStream(tmp_path, remote, **QUICK | {"first_pause": 0.5, "download_retry": 9})]
        ),
        range(8),
    )
    back.join()


# --- the index ------------------------------------------------------------------------


def test_index_of_other_data(bucket, remote, data, tmp_path):
    index_hash = xxhash.xxh64((data / "index.json").read_bytes()).hexdigest()
    cache = tmp_path / "cache"
    read(SampleDataset([CheckedStream(cache, remote, index_hash=index_hash, **QUICK)]))
    other = write_shards(tmp_path / "other", first=1)
    other_remote = bucket.upload(other, "other")
    other_hash = xxhash.xxh64((other / "index.json").read_bytes()).hexdigest()
    for stream in (
        CheckedStream(cache, other_remote, index_hash=other_hash, **QUICK),
        CheckedStream(data, index_hash=other_hash),
    ):
        with pytest.raises(ValueError, match=f"{index_hash} instead of {other_hash}.*empty it"):
            SampleDataset([stream])
    (cache / "index.json").unlink()
    with pytest.raises(ValueError, match=r"has shards but no index.json.*empty it"):
        SampleDataset([CheckedStream(cache, other_remote, index_hash=other_hash, **QUICK)])
    with pytest.raises(ValueError, match=f"xxh64 {index_hash} instead of {other_hash}; upload"):
        SampleDataset([CheckedStream(tmp_path / "new", remote, index_hash=other_hash, **QUICK)])
    assert files(tmp_path / "new") == set()


def test_unusable_index(bucket, remote, data, tmp_path):
    bucket.faults["data/index.json"].extend([Shorten(100), Cut(100)])
    assert len(SampleDataset([CheckedStream(tmp_path / "cache", remote, **QUICK)])) == SAMPLES
    with pytest.raises(
        ValueError, match=r"s3://shards/nowhere/index.json .*not found.*correct remote"
    ):
        SampleDataset([CheckedStream(tmp_path / "a", "s3://shards/nowhere", **QUICK)])
    with pytest.raises(ValueError, match="Unsupported remote path: gopher://here"):
        CheckedStream(tmp_path / "a", "gopher://here")
    with pytest.raises(ValueError, match=r"no index\.json in .*correct local"):
        SampleDataset([CheckedStream(tmp_path)])
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot keep fetched shards in .*disk of this machine"):
        SampleDataset([CheckedStream(tmp_path / "file", remote)])
    for text, message in (
        ("{", "no index of usable MDS shards"),
        ('{"shards": []}', "lists no shards"),
        ((data / "index.json").read_text().replace("xxh64", "sha1"), "xxh64"),
        ((data / "index.json").read_text().replace("ndarray:int32", "pkl"), "unsafe type: pkl"),
    ):
        (tmp_path / "cache" / "index.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            SampleDataset([CheckedStream(tmp_path / "cache", remote)])


# --- what is here already -------------------------------------------------------------


def damage_files(folder: Path) -> None:
    whole = (folder / FIRST).read_bytes()
    (folder / FIRST).write_bytes(whole[:300])
    path = folder / "00001/shard.00004.mds"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def test_damaged_cache(bucket, remote, tmp_path, caplog):
    read(SampleDataset([CheckedStream(tmp_path, remote)]))
    bucket.requests.clear()
    read(SampleDataset([CheckedStream(tmp_path, remote, verify=True)]))
    assert not bucket.requests  # all is here
    damage_files(tmp_path)
    read(SampleDataset([CheckedStream(tmp_path, remote, verify=True)]))
    assert f"{FIRST} has 300 bytes instead of 661; it is fetched again" in caplog.text
    assert "shard.00004.mds has xxh64" in caplog.text
    assert bucket.requests.total() == 4  # HEAD and GET of each
    damage_files(tmp_path)
    read(SampleDataset([CheckedStream(tmp_path, remote)]), range(SAMPLES - 8))  # sizes only


def test_damaged_folder(data, tmp_path):
    folder = tmp_path / "local"
    shutil.copytree(data, folder)
    read(SampleDataset([CheckedStream(folder, verify=True)]))
    assert files(folder) == files(data)
    assert not (folder / ".fetching").exists()
    damage_files(folder)
    shards = SampleDataset([CheckedStream(folder, verify=True)])
    with pytest.raises(RuntimeError, match=r"300 bytes instead of 661; copy it again"):
        shards[0]
    with pytest.raises(RuntimeError, match=r"xxh64.*copy it again"):
        shards[SAMPLES - 1]
    (folder / FIRST).unlink()
    with pytest.raises(RuntimeError, match="is missing; copy it again"):
        shards[0]

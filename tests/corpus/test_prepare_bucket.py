"""Shards that go into a bucket as they are made."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

import tests.ranks  # noqa: F401  its fork server has the big libraries imported
from taidscale.data.manifest import fetch_manifest
from tests.corpus.prepared import EndedError, content, end_after


@pytest.fixture
def bucket(monkeypatch: Any) -> Iterator[Any]:
    """A bucket `data` of a real S3 server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("S3_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    found = boto3.resource("s3", endpoint_url=f"http://{host}:{port}").Bucket(f"data-{port}")
    found.create()
    yield found
    server.stop()


def test_bucket(make: Any, tmp_path: Path, bucket: Any) -> None:
    out = f"s3://{bucket.name}/some/place"
    settings = {"scratch": tmp_path / "scratch", "num_workers": 1}
    with pytest.raises(EndedError):
        make(out, progress=end_after(2), **settings)
    scratch = tmp_path / "scratch" / "place.partial"
    names = {item.key for item in bucket.objects.all()}
    assert "some/place/00000/shard.00000.mds" in names
    assert "some/place/manifest.json" not in names
    assert not list(scratch.rglob("00000/*.mds"))
    with pytest.raises(ValueError, match="cannot fetch manifest"):
        fetch_manifest(out)
    records = {path: path.stat().st_mtime_ns for path in scratch.glob("parts/*.json")}

    def look(progress: Any) -> None:
        assert {path: path.stat().st_mtime_ns for path in records} == records

    manifest = make(out, progress=look, **settings)
    assert not scratch.exists()
    make(tmp_path / "whole")
    for item in bucket.objects.all():
        path = tmp_path / "there" / item.key
        path.parent.mkdir(parents=True, exist_ok=True)
        bucket.download_file(item.key, str(path))
    there = content(tmp_path / "there" / "some" / "place")
    del there["settings.json"]  # which shows that the place was taken before the work began
    assert there == content(tmp_path / "whole")
    assert fetch_manifest(out) == manifest
    with pytest.raises(ValueError, match=f"{out} holds data already"):
        make(out, **settings)
    assert content(tmp_path / "whole") == there


def test_unreachable_bucket(make: Any, tmp_path: Path, bucket: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    told: list[Any] = []
    settings = {"scratch": tmp_path / "scratch", "progress": told.append}
    with pytest.raises(ValueError, match=r"cannot write to s3://absent/data: .*(404|Not Found)"):
        make("s3://absent/data", **settings)
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"cannot write to s3://other/data: .*connect"):
        make("s3://other/data", **settings)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"cannot write to s3://third/data: .*credentials"):
        make("s3://third/data", **settings)
    assert told == []
    with contextlib.suppress(FileNotFoundError):
        assert not list((tmp_path / "scratch").iterdir())

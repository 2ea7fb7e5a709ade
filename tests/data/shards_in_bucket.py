"""Shards of numbered samples, and a bucket that has them; fixtures for several test files."""

import logging
from pathlib import Path

import numpy as np
import pytest
from streaming import MDSWriter
from streaming.base.util import merge_index

from taidscale.data.dataset import SampleDataset
from tests.data.faulty_bucket import FaultyBucket, faulty_bucket

SEQ_LEN = 16
SAMPLES = 80  # in two parts of as many shards
FIRST = "00000/shard.00000.mds"
QUICK = {"download_retry": 2, "download_timeout": 3.0, "first_pause": 0.01}


def write_shards(folder: Path, first: int = 0) -> Path:
    """Every token of sample k is first + k; shards of each part hold 9, 9, 9, 9 and 4."""
    columns = {"tokens": f"ndarray:uint16:{SEQ_LEN + 1}", "documents": "ndarray:int32"}
    for part in range(2):
        out = str(folder / f"{part:05}")
        with MDSWriter(columns=columns, out=out, hashes=["xxh64"], size_limit=700) as writer:
            for k in range(first + part * SAMPLES // 2, first + (part + 1) * SAMPLES // 2):
                tokens = np.full(SEQ_LEN + 1, k, np.uint16)
                writer.write({"tokens": tokens, "documents": np.array([SEQ_LEN + 1], np.int32)})
    merge_index(str(folder))
    for index in folder.glob("*/index.json"):
        index.unlink()
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def server():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "nobody")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with faulty_bucket() as bucket:
            patch.setenv("S3_ENDPOINT_URL", bucket.endpoint)
            yield bucket


@pytest.fixture(scope="module")
def remote(server: FaultyBucket, data: Path) -> str:
    return server.upload(data, "data")


@pytest.fixture
def bucket(server: FaultyBucket, remote: str):
    server.faults.clear()
    server.requests.clear()
    return server


def read(shards: SampleDataset, indices=range(SAMPLES)) -> None:
    """Every sample is right."""
    for index in indices:
        sample = shards[index]
        assert sample["tokens"].tolist() == [index] * (SEQ_LEN + 1)
        assert sample["documents"].tolist() == [SEQ_LEN + 1]


def files(folder: Path) -> set[str]:
    """What is in a cache, but for locks."""
    paths = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {path for path in paths if not path.endswith(".lock")}

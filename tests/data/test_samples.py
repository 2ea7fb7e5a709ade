"""Reading samples by number, from several processes at once."""

# ruff: noqa: F811 (fixtures are imported)

import os
import pickle
import signal
import threading
import time
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from torch.utils.data import DataLoader

from taidscale.data.cache import locked
from taidscale.data.dataset import SampleDataset
from taidscale.data.remote import CheckedStream
from tests.data.faulty_bucket import Corrupt, Delay, Stall
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
from tests.ranks import run_on_ranks


def aws() -> dict[str, str]:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "S3_ENDPOINT_URL")
    return {name: os.environ[name] for name in names}


def test_numbers(data, tmp_path):
    other = write_shards(tmp_path / "other", first=SAMPLES)
    shards = SampleDataset([CheckedStream(data), CheckedStream(other)])
    assert len(shards) == 2 * SAMPLES == shards.samples_per_shard.sum()
    read(shards, np.random.default_rng(0).permutation(2 * SAMPLES))
    assert shards.stream_per_shard.tolist() == [0] * 10 + [1] * 10
    assert [shards.shard_of(index) for index in (0, 8, 9, SAMPLES)] == [0, 0, 1, 10]
    for index in (-1, 2 * SAMPLES):
        with pytest.raises(IndexError):
            shards[index]


# --- several processes ----------------------------------------------------------------


@contextmanager
def process(target, *args):
    child = get_context("fork").Process(target=target, args=args, daemon=True)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def wait_for(condition) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_killed_while_fetching(bucket, remote, tmp_path):
    """Who waits takes over, and nothing is left of what was killed."""
    blocks = {path.name for path in Path("/dev/shm").iterdir()}
    shards = SampleDataset([CheckedStream(tmp_path, remote, **QUICK | {"download_timeout": 600.0})])
    bucket.faults[f"data/{FIRST}"].extend([Stall(600, after=100)])
    with process(read, shards, range(8)) as first:
        wait_for(lambda: bucket.gets(f"data/{FIRST}") == 1)
        shards.prepare_shard(0, blocking=False)
        assert not (tmp_path / FIRST).exists()
        with process(read, shards, range(8)) as second:
            time.sleep(0.2)
            assert bucket.gets(f"data/{FIRST}") == 1
            os.kill(first.pid, signal.SIGKILL)
            second.join(300)
            assert second.exitcode == 0
    assert files(tmp_path) == {"index.json", FIRST}
    read(SampleDataset([CheckedStream(tmp_path, remote)]))
    new = {path.name for path in Path("/dev/shm").iterdir()} - blocks
    assert not [name for name in new if name.endswith(("locals", "shard_states"))]


def indices_of(rank: int) -> list[int]:
    return np.random.default_rng(rank).permutation(np.tile(np.arange(SAMPLES), 2)).tolist()


@pytest.mark.parametrize("limit", [None, 5])
def test_ranks_and_workers(bucket, remote, data, tmp_path, limit):
    """Random access by 2 ranks x 2 forked workers, whose parents have open connections."""
    if limit is not None:
        limit = limit * 661 + (data / "index.json").stat().st_size
    params = {"cache": tmp_path, "remote": remote, "limit": limit, "env": aws()}
    sizes, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            if (tmp_path / ".fetching" / "usage.lock").exists():
                with locked(tmp_path / ".fetching" / "usage.lock"):  # nobody makes room meanwhile
                    sizes.append(disk_usage(tmp_path))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run_on_ranks(2, __name__, "read_in_workers", params)
    finally:
        stop.set()
        watcher.join()
    sizes.append(disk_usage(tmp_path))  # the watcher may have had no time to look
    gets = [count for (method, _), count in bucket.requests.items() if method == "GET"]
    print(f"limit {limit}: {sum(gets)} GETs, {max(sizes)} bytes at most")
    if limit is None:
        assert gets == [1] * 11  # the index and each shard once, for two ranks
    else:
        assert sum(gets) > 11
        assert limit / 2 < max(sizes) <= limit


def disk_usage(folder: Path) -> int:
    found = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file() and path.suffix != ".lock":
                stat = path.stat()
                found[stat.st_ino] = stat.st_size  # what is renamed meanwhile counts once
    return sum(found.values())


def read_in_workers(cache: Path, remote: str, limit: int | None, env: dict[str, str]) -> None:
    os.environ |= env
    shards = SampleDataset([CheckedStream(cache, remote)], limit)
    dist.barrier()
    read(shards, [0, SAMPLES - 1])
    order = indices_of(int(os.environ["RANK"]))
    loader = DataLoader(
        shards,
        sampler=order,
        num_workers=2,
        batch_size=4,
        collate_fn=lambda samples: [int(sample["tokens"][3]) for sample in samples],
        multiprocessing_context="fork",
    )
    assert [index for batch in loader for index in batch] == order


def test_same_shard_at_once(bucket, remote, tmp_path):
    bucket.faults[f"data/{FIRST}"].extend([Delay(0.5)])
    run_on_ranks(2, __name__, "read_one", {"cache": tmp_path, "remote": remote, "env": aws()})
    assert bucket.gets(f"data/{FIRST}") == 1


def read_one(cache: Path, remote: str, env: dict[str, str]) -> None:
    os.environ |= env
    shards = SampleDataset([CheckedStream(cache, remote)])
    dist.barrier()
    ahead = threading.Thread(target=shards.prepare_shard, args=(0,))
    ahead.start()
    with process(read, shards, range(8)) as one, process(read, shards, range(8)) as two:
        read(shards, range(8))
        one.join(10)
        two.join(10)
        assert one.exitcode == two.exitcode == 0
    ahead.join()


def test_all_fail_where_one_fails(bucket, remote, tmp_path):
    bucket.faults[f"data/{FIRST}"].extend([Corrupt()] * 99)
    run_on_ranks(2, __name__, "fail", {"cache": tmp_path, "remote": remote, "env": aws()})
    assert bucket.gets(f"data/{FIRST}") == 2 * 2 * 3


def fail(cache: Path, remote: str, env: dict[str, str]) -> None:
    os.environ |= env
    shards = SampleDataset([CheckedStream(cache, remote, **QUICK)])
    dist.barrier()
    workers = {"sampler": [0], "num_workers": 1, "multiprocessing_context": "fork"}
    for loader in (shards, DataLoader(shards, **workers)):
        with pytest.raises(RuntimeError, match=rf"(?s){FIRST} .attempt 3 of 3.*upload it again"):
            next(iter(loader))


def test_forkserver_workers(bucket, remote, tmp_path):
    shards = SampleDataset([CheckedStream(tmp_path, remote)], "1mb")
    read(shards, range(8))
    read(pickle.loads(pickle.dumps(shards)), range(16))
    order = indices_of(0)
    loader = DataLoader(
        shards,
        sampler=order,
        num_workers=2,
        batch_size=None,
        multiprocessing_context="forkserver",
        worker_init_fn=SetEnvironment(aws()),
    )
    assert [int(sample["tokens"][3]) for sample in loader] == order


class SetEnvironment:
    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def __call__(self, worker: int) -> None:
        os.environ |= self.env


# --- the limit ------------------------------------------------------------------------


def test_limit_too_low(remote, bucket, tmp_path):
    with pytest.raises(ValueError, match=r"cache_limit is 1024 bytes.*set it to \d{4} at least"):
        SampleDataset([CheckedStream(tmp_path, remote)], "1kb")


def test_coldest_is_deleted_first(bucket, remote, data, tmp_path):
    index_size = (data / "index.json").stat().st_size
    (tmp_path / ".fetching").mkdir()
    # What a run left that was killed: a reservation, and a part of a file.
    (tmp_path / ".fetching" / "3.lock").write_text("9999999")
    (tmp_path / ".fetching" / "3.part.AbCd").write_bytes(bytes(5000))
    shards = SampleDataset([CheckedStream(tmp_path, remote)], index_size + 5 * 661)
    for shard_id in (0, 1, 2, 3, 0, 4, 5):  # the first is warm again in between
        read(shards, [9 * shard_id if shard_id < 5 else SAMPLES // 2])
        time.sleep(0.01)
    names = [str(shard.raw_data.basename) for shard in shards.shards]
    assert files(tmp_path) == {"index.json", names[0], names[3], names[4], names[5]}

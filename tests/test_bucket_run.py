"""A real run whose shards come from a bucket that has its bad moments."""

# ruff: noqa: F811 (fixtures are imported)

import contextlib
import io
import json
import os
from pathlib import Path

from taidscale.commands.outcome import USER_ERROR
from taidscale.commands.train import main
from tests.data.faulty_bucket import Answer, Corrupt, Cut, FaultyBucket
from tests.data.shards_in_bucket import server  # noqa: F401
from tests.ranks import run_on_ranks
from tests.runs import make_run, read_lines


def test_a_run_from_a_bucket_equals_one_from_the_disk(server: FaultyBucket, tmp_path: Path) -> None:
    path = make_run(tmp_path, total_steps=4)
    remote = server.upload(tmp_path / "train", "train")
    shard = json.loads((tmp_path / "train" / "index.json").read_text())["shards"][0]
    name = shard["raw_data"]["basename"]
    server.faults[f"train/{name}"].extend([Answer(503, "SlowDown"), Cut(50), Corrupt()])
    server.faults["train/manifest.json"].extend([Answer(503, "SlowDown")])
    stream = {"name": "train", "local": str(tmp_path / "cache"), "remote": remote}
    for run_dir, overrides in (
        ("disk", []),
        ("bucket", [f"data.streams=[{json.dumps(stream)}]", "data.num_workers=2"]),
    ):
        arguments = [str(path), f"run_dir={tmp_path / run_dir}", *overrides]
        run_on_ranks(2, "tests.runs", "train_quietly", {"arguments": arguments})
    for file in ("metrics.jsonl", "evaluations.jsonl"):
        assert read_lines(tmp_path / "bucket" / file) == read_lines(tmp_path / "disk" / file)
    assert server.gets(f"train/{name}") == 4  # once for all, after three that failed
    assert not server.faults[f"train/{name}"]


def test_a_bucket_out_of_reach_stops_the_run_before_it_begins(
    server: FaultyBucket, tmp_path: Path
) -> None:
    path = make_run(tmp_path)
    stream = {"name": "train", "local": str(tmp_path / "cache"), "remote": "s3://shards/nowhere"}
    arguments = [str(path), f"data.streams=[{json.dumps(stream)}]"]
    message = "data.streams.0: cannot fetch manifest.json from s3://shards/nowhere"
    run_on_ranks(2, __name__, "fail", {"arguments": arguments, "message": message})
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"lock", "status.json"}


def fail(arguments: list[str], message: str) -> None:
    """On each rank: a user's error, which the first one says."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(arguments) == USER_ERROR
    assert (message in said.getvalue()) == (os.environ["RANK"] == "0")

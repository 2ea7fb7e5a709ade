"""Names that come from a bucket or a manifest stay below their folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taidscale.corpus.in_memory import write_shards
from taidscale.data.dataset import SampleDataset
from taidscale.data.held_out import HeldOutLoader
from taidscale.data.manifest import check_hashes, read_manifest
from taidscale.data.names import check_shard_name
from taidscale.data.remote import CheckedStream
from taidscale.data.tokenizer import load_tokenizer

HOSTILE = [
    "../outside.mds", "a/../../outside.mds", "/outside.mds", "./a.mds", "a//b.mds", "..",
    ".fetching/0.mds", "a/.hidden.mds", "index.json", "a.mds/", "a\\b.mds", "a\n.mds", "", 5,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_lead_elsewhere(name: object) -> None:
    with pytest.raises(ValueError, match=r"index\.json names a shard .* below its folder"):
        check_shard_name(name, "index.json")


def test_names_of_shards() -> None:
    for name in ("00000/shard.00000.mds", "shard.00000.mds", "日本/a b.mds"):
        assert check_shard_name(name, "index.json") == name


def rename_shard(index: Path, name: str) -> None:
    content = json.loads(index.read_text())
    content["shards"][0]["raw_data"]["basename"] = name
    index.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["../victim.mds", "{}/victim.mds", "index.json"])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_hostile_remote(
    numbered_shards: Callable[..., Path], tmp_path: Path, name: str, is_there: bool
) -> None:
    remote, victim = numbered_shards(4, 8), tmp_path / "victim.mds"
    name = name.format(tmp_path)
    (shard,) = remote.glob("*.mds")
    if name != "index.json":
        (remote / name).write_bytes(shard.read_bytes())
        assert victim.is_file()
        victim.rename(tmp_path / "served")
    rename_shard(remote / "index.json", name)
    if is_there:
        victim.write_text("mine")
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    with pytest.raises(ValueError, match="names a shard"):
        SampleDataset([CheckedStream(tmp_path / "cache", str(remote), download_retry=0)])[0]
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    assert not is_there or victim.read_text() == "mine"


def test_a_shard_that_is_named_twice(numbered_shards: Callable[..., Path], tmp_path: Path) -> None:
    folder = numbered_shards(8, 8)
    rename_shard(folder / "index.json", "shard.00001.mds")
    with pytest.raises(ValueError, match="lists a shard twice"):
        CheckedStream(folder).read_index()


def test_a_hostile_manifest(tiny_tokenizer_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_shards(["some text to read"] * 9, load_tokenizer(str(tiny_tokenizer_folder)), 8, out)
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    manifest["shards"][0]["file"] = "../../etc/passwd"
    (out / "manifest.json").write_text(json.dumps(manifest))
    for read in (read_manifest, check_hashes):
        with pytest.raises(ValueError, match=r"shards\.0\.file: .* names a shard '\.\./\.\./etc"):
            read(out)


def test_hostile_held_out_shards(numbered_shards: Callable[..., Path]) -> None:
    folder = numbered_shards(4, 8)
    rename_shard(folder / "index.json", "../other.mds")
    with pytest.raises(ValueError, match="names a shard"):
        HeldOutLoader(folder, seq_len=8, batch_size=1, rank=0, world_size=1, vocab_size=99)

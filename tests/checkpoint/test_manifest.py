"""What changes in a checkpoint's folder, down to a bit, is noticed and named."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from taidscale.checkpoint.manifest import (
    MANIFEST,
    FormatError,
    damage,
    file_damage,
    read_facts,
    read_hash,
    write_manifest,
)

FACTS: dict[str, Any] = {"progress": {"step": 3, "t": 0.1 + 0.2}, "text": "語", "none": None}
HASH = "2f1d3ca0ab1dbeb4f4a4bdfb3a9b2c8d"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files and their manifest."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.pt").write_bytes(bytes(range(256)) * 300)
    (tmp_path / "deep" / "b.pt").write_bytes(b"")
    files = {}
    for rank, name in enumerate(("a.pt", "deep/b.pt")):
        num_bytes, sha256 = read_hash(tmp_path / name)
        files[name] = {"bytes": num_bytes, "sha256": sha256, "rank": rank}
    write_manifest(tmp_path, FACTS, files)
    return tmp_path


def test_facts_come_back(folder: Path) -> None:
    facts = read_facts(folder)
    assert {name: facts[name] for name in FACTS} == FACTS
    assert list(facts["files"]) == ["a.pt", "deep/b.pt"]
    # As `sha256sum` says.
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert facts["files"]["deep/b.pt"] == {"bytes": 0, "sha256": empty, "rank": 1}
    assert damage(folder) is None
    assert damage(folder, hashes=True) is None


def test_a_flipped_bit_of_a_file(folder: Path) -> None:
    content = bytearray((folder / "a.pt").read_bytes())
    content[70_000] ^= 8
    expected = read_facts(folder)["files"]["a.pt"]["sha256"]
    (folder / "a.pt").write_bytes(content)
    found = read_hash(folder / "a.pt")[1]
    assert damage(folder) is None  # sizes alone do not show it
    assert damage(folder, hashes=True) == (
        f"a.pt has SHA-256 {found[:16]}... instead of {expected[:16]}..."
    )


def test_a_flipped_bit_of_the_manifest(folder: Path) -> None:
    """Wherever it is: in a step, in a hash, in a name, in the white space."""
    path, chance = folder / MANIFEST, random.Random(0)
    whole = path.read_bytes()
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        assert damage(folder), (place, content[max(0, place - 20) : place + 20])
    path.write_bytes(whole)
    assert damage(folder) is None


def test_other_damage(folder: Path) -> None:
    path = folder / "a.pt"
    path.write_bytes(path.read_bytes()[:-1])
    assert damage(folder) == "a.pt has 76,799 bytes instead of 76,800"
    path.unlink()
    assert damage(folder) == damage(folder, hashes=True) == "a.pt is missing"
    path.mkdir()
    entry = {"bytes": 1, "sha256": HASH, "rank": 0}
    reason = file_damage(folder, "a.pt", entry, hashes=True)
    assert reason is not None
    assert "a.pt cannot be read: [Errno 21]" in reason
    for content in ("", "[]", '{"files": {'):
        (folder / MANIFEST).write_text(content)
        assert damage(folder) == "manifest.json is missing or unreadable"
    (folder / MANIFEST).unlink()
    assert damage(folder) == "manifest.json is missing or unreadable"


def test_a_manifest_without_hashes_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps({**FACTS, "files": {"a.pt": 76_800}}))
    with pytest.raises(FormatError, match=r"has format 1, .* reads format 2: use the version that"):
        damage(folder)


@pytest.mark.parametrize("name", ["../outside.pt", "/etc/hostname", "deep/../../outside.pt"])
def test_a_file_outside_is_refused(folder: Path, name: str) -> None:
    """Whoever can write a manifest can hash it."""
    entry = {"bytes": 1, "sha256": HASH, "rank": 0}
    write_manifest(folder, FACTS, {**read_facts(folder)["files"], name: entry})
    said = damage(folder)
    assert said is not None
    assert said.endswith("which is not in the checkpoint")

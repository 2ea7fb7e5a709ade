"""Preparing text that the tokenizer does not know: counted, said, and stopped in time."""

import json
from pathlib import Path
from typing import Any

import pytest

from taidscale.data.manifest import Manifest, read_manifest
from tests.corpus.prepared import EndedError, content, end_after
from tests.data.test_unknown import save_characters


@pytest.fixture
def known(tmp_path: Path) -> dict[str, Any]:
    """How to prepare text of which 1 % of the characters are unknown, in some parts."""
    texts = ["letters and blanks " * 10 + f"{'猫犬' if k % 2 else ''}" for k in range(150)]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "j.jsonl").write_text("\n".join(lines))
    tokenizer = save_characters(tmp_path / "characters")
    return {"inputs": [str(tmp_path / "j.jsonl")], "encoding": {"tokenizer": tokenizer}}


def test_counted_alike_in_parts_by_processes_and_after_an_end(
    make: Any, known: dict[str, Any], tmp_path: Path
) -> None:
    whole: Manifest = make(tmp_path / "whole", **known)
    counts = whole.counts
    assert (counts.unknown_tokens, counts.unknown_characters) == (75, 150)
    assert len(counts.unknown_examples) == 20
    assert counts.unknown_examples[0].endswith("j.jsonl, line 2: '猫犬'")
    assert counts.has_unknown
    with pytest.raises(EndedError):
        make(tmp_path / "parts", **known, progress=end_after(3))
    make(tmp_path / "parts", **known, num_workers=2)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert read_manifest(tmp_path / "parts").counts == counts


def test_stops_at_the_first_part_and_goes_on_when_allowed(
    make: Any, known: dict[str, Any], tmp_path: Path
) -> None:
    told: list[Any] = []
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"0\.10% of it may be unknown; .* --allow-unknown"):
        make(out, **known, allow_unknown=0.001, progress=told.append)
    assert len(told) == 1
    assert not out.exists()
    assert make(out, **known, allow_unknown=0.02).counts.unknown_tokens == 75
    make(tmp_path / "whole", **known)
    assert content(out) == content(tmp_path / "whole")


def test_a_share_that_is_none(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--allow-unknown \(2\) must be a share, from 0 to 1"):
        make(tmp_path / "out", allow_unknown=2)


def test_older_manifests_did_not_count(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    older = json.loads(path.read_text())
    assert older["counts"]["unknown_tokens"] == 0
    for name in ("unknown_tokens", "unknown_characters", "unknown_examples"):
        del older["counts"][name]
    path.write_text(json.dumps(older))
    assert not read_manifest(tmp_path / "out").counts.has_unknown

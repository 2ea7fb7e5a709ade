"""A small corpus, and how it becomes shards."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

import tests.ranks  # noqa: F401  its fork server has the big libraries imported
from taidscale.corpus.documents import Reading
from taidscale.corpus.encoding import EncodingSettings
from taidscale.corpus.prepare import prepare
from tests.corpus.prepared import SEQ_LEN

WORDS = ("teacher", "student", "tells", "what", "may", "come", "next", "and", "how", "likely")


@pytest.fixture
def corpus(tmp_path: Path) -> list[str]:
    """Three files, of which the last is small; six parts of 4 KiB."""
    chance = random.Random(0)
    for name, count in (("a", 60), ("b", 90), ("c", 3)):
        texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 50))) for _ in range(count)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return [str(tmp_path / "[ab].jsonl"), str(tmp_path / "c.jsonl")]


@pytest.fixture
def make(corpus: list[str], tiny_tokenizer_folder: Path) -> Any:
    """Prepare the corpus into some folder."""

    def run(out: Any, **changes: Any) -> Any:
        encoding = {"tokenizer": str(tiny_tokenizer_folder)} | changes.pop("encoding", {})
        settings: dict[str, Any] = {"seq_len": SEQ_LEN, "size_limit": 3000}
        inputs = changes.pop("inputs", corpus)
        reading = Reading(block_bytes=4096)
        return prepare(inputs, out, reading, EncodingSettings(**encoding), **settings | changes)

    return run

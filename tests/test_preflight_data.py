"""What a run is told of its shards before anything is loaded."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from taidscale.config.load import load_config
from taidscale.preflight import prepare
from tests.runs import make_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    return make_run(tmp_path, wandb={"mode": "disabled"})


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def test_chats_that_see_each_other(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        prepare(load_config(str(run)))
        assert "several chats" not in warnings(caplog)
        settings = {"reading": {"chat_column": "messages"}}
        change_manifest(run.parent / "train", settings=settings, num_documents=10_000)
        prepare(load_config(str(run), ["data.attention=within_document"]))
        assert "several chats" not in warnings(caplog)
        prepare(load_config(str(run)))
    assert "data.attention: across_documents, and the samples of data.streams.0" in warnings(caplog)

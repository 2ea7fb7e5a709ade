"""What a run is told of its shards before anything is loaded."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from taidscale.config.load import load_config
from taidscale.corpus.in_memory import write_shards
from taidscale.data.tokenizer import load_tokenizer
from taidscale.run.preflight import prepare
from tests.runs import SEQ_LEN, make_run


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


def test_held_out_data_that_are_trained_on(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(run.parent / "train", run.parent / "copy")
    for same in ("train", "copy"):
        settings = [f"evaluation.data={run.parent / same}"]
        with pytest.raises(
            ValueError, match=r"evaluation\.data: ([\d,]+) of its \1 samples are in"
        ):
            prepare(load_config(str(run), settings))
    settings.append("evaluation.allow_training_data=true")
    with caplog.at_level(logging.WARNING):
        prepare(load_config(str(run), settings))
    assert "samples are in data.streams.0, which is trained on" in warnings(caplog)


def texts(first: int, last: int) -> list[str]:
    """Documents that fill a sample each, with the separator and the token that samples share."""
    return [f"{number:016}" for number in range(first, last)]


def test_some_samples_in_common(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_tokenizer(str(run.parent / "teacher"))
    for name, numbers in (("train", (0, 50)), ("held-out", (40, 60))):
        shutil.rmtree(run.parent / name)
        folder = run.parent / name
        write_shards(texts(*numbers), tokenizer, SEQ_LEN, folder, packing="best_fit")
    with caplog.at_level(logging.WARNING):
        prepare(load_config(str(run)))
    assert "evaluation.data: 10 of its 20 samples are in data.streams.0" in warnings(caplog)
    assert "by whole shards only" not in warnings(caplog)


def test_shards_prepared_before_samples_had_hashes(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train", "held-out"):
        change_manifest(run.parent / name, has_sample_hashes=False)
        (run.parent / name / "samples.xxh64").unlink()
    with caplog.at_level(logging.WARNING):
        prepare(load_config(str(run)))
        assert "compared with data.streams.0 by whole shards only" in warnings(caplog)
        with pytest.raises(ValueError, match=r"samples are in data\.streams\.0"):
            prepare(load_config(str(run), [f"evaluation.data={run.parent / 'train'}"]))


def test_damaged_hashes(run: Path) -> None:
    (run.parent / "train" / "samples.xxh64").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"samples\.xxh64 has 5 bytes instead of [\d,]+; copy"):
        prepare(load_config(str(run)))


def test_hashes_in_another_folder_are_fetched(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    stream = {"local": str(run.parent / "cache"), "remote": str(run.parent / "train")}
    settings = [f"data.streams=[{json.dumps(stream)}]", f"evaluation.data={run.parent / 'train'}"]
    with pytest.raises(ValueError, match=r"samples are in data\.streams\.0"):
        prepare(load_config(str(run), settings))

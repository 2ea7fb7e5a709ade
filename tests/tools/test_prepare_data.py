"""The command that prepares data: from any folder, ended in any way, and refusing in one line."""

import gzip
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from moto.server import ThreadedMotoServer
from streaming import LocalDataset

from taidscale.data.check_shards import check_shards
from taidscale.data.manifest import check_hashes
from taidscale.data.tokenizer import fingerprint, load_tokenizer
from tests.data.test_unknown import save_characters
from tests.runs import VOCAB_SIZE
from tests.tiny_models import save_byte_tokenizer
from tests.tools import commands
from tests.tools.commands import expect_error, expect_success

TEXTS = (["one two", "", "three"], ["four five six", "seven"])


start = partial(commands.start, "prepare_data.py")


@contextmanager
def held_at(partial: Path, number: int) -> Iterator[None]:
    """The tool cannot note that a part is finished: it waits for a reader of a pipe."""
    pipe = partial / "parts" / f"{number:05}.json.partial"
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    try:
        yield
    finally:
        pipe.unlink()


def wait_for_parts(partial: Path, count: int, tool: "subprocess.Popen[str]") -> dict[Path, int]:
    """When each of the first parts was finished, once they all are."""
    wanted = [partial / "parts" / f"{number:05}.json" for number in range(count)]
    deadline = time.monotonic() + 600
    while not all(path.exists() for path in wanted):
        assert tool.poll() is None, tool.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return {path: path.stat().st_mtime_ns for path in wanted}


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two JSONL files, one of them packed, and a tokenizer."""
    plain, packed = ("".join(json.dumps({"text": t}) + "\n" for t in texts) for texts in TEXTS)
    (tmp_path / "a.jsonl").write_text(plain)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(packed.encode()))
    save_byte_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "no-tokenizer").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "precious").write_text("do not lose me")
    return tmp_path


def test_prepare_data(corpus: Path) -> None:
    options = ["--tokenizer", "tokenizer", "--seq-len", "4", "--out", "shards"]
    said = expect_success(start("a.jsonl", "b.jsonl.gz", *options, folder=corpus))
    tokenizer = load_tokenizer(str(corpus / "tokenizer"))
    manifest = check_shards(
        corpus / "shards",
        seq_len=4,
        fingerprint=fingerprint(tokenizer.vocabulary()),
        vocab_size=VOCAB_SIZE,
    )
    ids = []
    for text in [*TEXTS[0], *TEXTS[1]]:
        if text:
            ids += [*tokenizer.encode_batch([text])[0], tokenizer.eos_id]
    assert manifest.num_tokens == len(ids) == sum(len(t) + 1 for ts in TEXTS for t in ts if t)
    assert manifest.num_documents == 4
    assert manifest.sources == ["a.jsonl", "b.jsonl.gz"]
    samples = LocalDataset(str(corpus / "shards"))
    assert samples.size == manifest.num_samples == (len(ids) - 1) // 4
    for number in range(samples.size):
        assert samples[number]["tokens"].tolist() == ids[4 * number : 4 * number + 5]
    assert re.search(r"documents +4 \(1 empty ones skipped\)\n", said)
    assert re.search(rf"\ntokens +{len(ids)}\n", said)
    assert re.search(rf"\ndropped tokens +{manifest.num_dropped_tokens}\n", said)
    assert re.search(r"\npath +shards\n", said)


def test_filters_and_broken_records(corpus: Path) -> None:
    with (corpus / "a.jsonl").open("a") as file:
        file.write('{"text": 5}\n{broken\n')
    options = ["--tokenizer", "tokenizer", "--seq-len", "16", "--out", "shards"]
    options += ["--packing", "best_fit", "--on-error", "skip", "--min-characters", "6"]
    said = expect_success(start("a.jsonl", "b.jsonl.gz", *options, folder=corpus))
    manifest = check_hashes(corpus / "shards")
    assert manifest.num_documents == 2
    assert manifest.packing == "best_fit"
    assert re.search(r"\nfiltered: min_characters +2\n", said)
    assert re.search(r"\nskipped: .+ +1\n", said)
    assert re.search(r"\nskipped first:\n  a\.jsonl, line 4: .*\n  a\.jsonl, line 5: .*\n", said)
    padding = manifest.num_padding_tokens / (17 * manifest.num_samples)
    assert re.search(rf"\npadding +{padding:.2%}\n", said)


def test_text_that_the_tokenizer_does_not_know(corpus: Path) -> None:
    save_characters(corpus / "characters")
    (corpus / "u.txt").write_text("text " * 30 + "猫")
    options = ["--tokenizer", "characters", "--seq-len", "16", "--out", "shards"]
    expect_error(
        start("u.txt", *options, "--allow-unknown", "0.001", folder=corpus),
        r"characters does not know .* 1 tokens, 0\.66% of the text \(u\.txt, line 1: '猫'\).*allow",
    )
    tool = start("u.txt", *options, folder=corpus)
    said, errors = tool.communicate(timeout=120)
    assert tool.returncode == 0, errors
    assert re.search(r"\nunknown +1 tokens, 0\.66% of the text\n", said)
    assert re.search(r"warning: tokenizer characters does not know .*'猫'", errors)


def test_prepare_data_refuses(corpus: Path) -> None:
    def prepare(
        source: str, *more: str, tokenizer: str = "tokenizer", out: str = "shards"
    ) -> "subprocess.Popen[str]":
        options = ["--tokenizer", tokenizer, "--seq-len", "4", "--out", out, *more]
        return start(source, *options, folder=corpus)

    # Two at a time; each spends its time on imports.
    for pair in (
        [
            (
                prepare("a.jsonl", "--text-column", "content"),
                r"a\.jsonl, line 1: no column 'content'",
            ),
            (prepare("c.jsonl"), r"no file matches c\.jsonl"),
        ],
        [
            (prepare("a.jsonl", tokenizer="./no-tokenizer"), r"no tokenizer in the folder \./no-"),
            (prepare("a.jsonl", out="used"), r"used exists already"),
        ],
        [
            (prepare("a.jsonl", "--part-mb", "0"), r"--part-mb: .* greater than 0, not 0"),
            (prepare("a.jsonl", "--workers", "-1"), r"--workers \(-1\) must not be negative"),
        ],
        [
            (prepare("a.jsonl", "--min-tokens", "0"), r"--min-tokens: .* greater than 0, not 0"),
            (prepare("a.jsonl", out="s3://bucket/data"), r"choose a local folder with --scratch"),
        ],
    ):
        for tool, says in pair:
            expect_error(tool, says)
    assert not (corpus / "shards").exists()
    assert not list(corpus.glob("*.partial"))
    assert (corpus / "used" / "precious").read_text() == "do not lose me"


# --- ended and begun again ------------------------------------------------------------


@pytest.fixture
def large(corpus: Path) -> Path:
    """Besides, 200 documents of 6 MiB: six parts."""
    chance = random.Random(0)
    texts = ("".join(chance.choices("abc de\n", k=32 << 10)) for _ in range(200))
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    (corpus / "large.jsonl").write_text("".join(lines))
    return corpus


def large_text(out: str, *more: str) -> list[str]:
    options = ["--tokenizer", "tokenizer", "--part-mb", "1", "--seq-len", "256"]
    return ["large.jsonl", *options, "--out", out, *more]


def test_killed_and_interrupted(large: Path) -> None:
    partial, before = large / "out.partial", {path.name for path in large.iterdir()}
    with held_at(partial, 2):
        tool = start(*large_text("out", "--workers", "2"), folder=large)
        wait_for_parts(partial, 2, tool)
        os.killpg(tool.pid, signal.SIGKILL)
        tool.communicate()

    with held_at(partial, 4):
        tool = start(*large_text("out", "--workers", "2"), folder=large)
        finished = wait_for_parts(partial, 4, tool)
        children = psutil.Process(tool.pid).children(recursive=True)
        os.killpg(tool.pid, signal.SIGINT)  # as a terminal does
        out, errors = tool.communicate(timeout=300)
    assert tool.returncode == 130
    assert "interrupted; the same command goes on from here" in errors
    assert "Traceback" not in out + errors
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert not (large / "out").exists()

    # With another number of workers.
    with held_at(partial, 5):
        (partial / "parts" / "00005.json").unlink(missing_ok=True)
        tool = start(*large_text("out", "--workers", "1"), folder=large)
        assert wait_for_parts(partial, 5, tool).items() >= finished.items()
        os.killpg(tool.pid, signal.SIGKILL)
        tool.communicate()
    expect_success(start(*large_text("out", "--workers", "1"), folder=large))
    expect_success(start(*large_text("whole", "--workers", "0"), folder=large))
    assert content(large / "out") == content(large / "whole")
    assert check_hashes(large / "out").num_documents == 200
    assert {path.name for path in large.iterdir()} == before | {"out", "whole"}


def test_killed_while_uploading(large: Path, monkeypatch: Any) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("S3_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "us-east-1")
        s3 = boto3.resource("s3", endpoint_url=f"http://{host}:{port}")
        bucket = s3.Bucket(f"texts-{port}")
        bucket.create()
        there = f"s3://{bucket.name}/texts"
        command = large_text(there, "--scratch", "scratch", "--workers", "2")
        scratch = large / "scratch" / "texts.partial"
        with held_at(scratch, 2):
            tool = start(*command, folder=large)
            finished = wait_for_parts(scratch, 2, tool)
            os.killpg(tool.pid, signal.SIGKILL)
            tool.communicate()
        uploaded = {item.key: item.last_modified for item in bucket.objects.all()}
        assert "texts/manifest.json" not in uploaded
        assert len(list(scratch.rglob("*.mds"))) <= 2  # those that were being made
        with held_at(scratch, 4):
            tool = start(*command, folder=large)
            assert wait_for_parts(scratch, 4, tool).items() >= finished.items()
            os.killpg(tool.pid, signal.SIGKILL)
            tool.communicate()
        expect_success(start(*command, folder=large))
        expect_success(start(*large_text("whole"), folder=large))
        for item in bucket.objects.all():
            path = large / "there" / item.key
            path.parent.mkdir(parents=True, exist_ok=True)
            bucket.download_file(item.key, str(path))
        found = content(large / "there" / "texts")
        del found["settings.json"]
        assert found == content(large / "whole")
        assert not list((large / "scratch").iterdir())
    finally:
        server.stop()

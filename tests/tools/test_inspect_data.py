"""What is in prepared data is shown, and what does not fit has status 2."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from taidscale.corpus.documents import Reading
from taidscale.corpus.encoding import EncodingSettings
from taidscale.corpus.in_memory import write_shards
from taidscale.corpus.prepare import prepare
from taidscale.data.tokenizer import load_tokenizer
from tests.config.base_run import BASE
from tests.data.test_unknown import save_characters
from tests.tiny_models import save_byte_tokenizer, save_tiny_model
from tests.tools.commands import expect_error, expect_success, start

SEQ_LEN = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plain` and `packed` of some texts, `model` and `other` with two vocabularies."""
    folder = tmp_path_factory.mktemp("data")
    save_byte_tokenizer(folder / "model")
    save_byte_tokenizer(folder / "other", ("<|more|>",))
    for name, size in (("model", 257), ("other", 258)):
        save_tiny_model(folder / name, "llama", vocab_size=size)
    texts = [f"text {k} " + "word " * k for k in range(40)]
    lines = [*(json.dumps({"text": text}) for text in texts), "broken"]
    (folder / "a.jsonl").write_text("\n".join(lines))
    encoding = EncodingSettings(tokenizer=str(folder / "model"), on_error="skip")
    for out, packing in (("plain", "concatenate"), ("packed", "best_fit")):
        prepare(
            [str(folder / "a.jsonl")], folder / out, Reading(), encoding,
            seq_len=SEQ_LEN, packing=packing,
        )  # fmt: skip
    return folder


def failure(tool: "subprocess.Popen[str]") -> tuple[str, list[str]]:
    """What was printed, and the errors."""
    out, errors = tool.communicate(timeout=600)
    assert tool.returncode == 2, errors
    assert "Traceback" not in errors
    return out, re.findall(r"error: .*", errors)


def test_inspect_folders(data: Path) -> None:
    said = expect_success(
        start(
            "inspect_data.py", "plain", "packed", "--draw", "l.png", "--verify", "--model", "model",
            "--samples", "1", "--max-samples", "7", folder=data,
        )
    )  # fmt: skip
    head, plain, packed, *_ = said.splitlines()
    assert re.split(" {2,}", head) == [
        "data", "documents", "left out", "tokens", "samples", "seq_len", "packing", "padding",
        "split", "MB", "tokenizer",
    ]  # fmt: skip
    assert re.match(r"plain +40 +1 +[\d,]+ +\d+ +64 +concatenate +0\.00% ", plain)
    assert re.match(r"packed +40 +1 +[\d,]+ +\d+ +64 +best_fit +(?!0\.00)\d+\.\d+% +\d+ ", packed)
    assert "plain: skipped: broken JSON 1" in said
    assert re.search(r"packed: \d+ pieces of documents, 7 of \d+ samples read \(\d+\.\d%\)", said)
    assert re.search(r" 64–65 +█+ [\d.]+ % +[\d.]+ %", said)
    assert re.search(r"packed, sample \d+ of \d+\n  ── \d+ tokens\n  │ .*(text|word)", said)
    assert said.count("ok: the same tokenizer; largest id read 256") == 2
    assert "plain: all 1 shards are whole" in said
    assert (data / "l.png").read_bytes().startswith(b"\x89PNG")


def test_inspect_text_that_the_tokenizer_does_not_know(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_characters(tmp_path / "characters"))
    write_shards(["known text " * 20, "猫"], tokenizer, 32, tmp_path / "out")
    said = expect_success(start("inspect_data.py", "out", "--samples", "0", folder=tmp_path))
    assert re.search(r"^data +documents +tokens +unknown .*\nout +2 +\d+ +0\.45%", said)
    assert "out: tokenizer" in said
    assert "does not know all of the text: 1 tokens, 0.45% of the text (text 2: '猫')" in said


def test_inspect_another_vocabulary(data: Path) -> None:
    model = start("inspect_data.py", "plain", "--model", "other", "--samples", "0", folder=data)
    tokenizer = start("inspect_data.py", "plain", "--tokenizer", "./other", folder=data)
    said, (error,) = failure(model)
    assert "plain: does not fit; largest id read 256" in said
    assert "plain was made with another tokenizer" in error
    said, (error,) = failure(tokenizer)
    assert "plain, sample" not in said
    assert error == "error: plain was made with another tokenizer than ./other"


def test_inspect_damaged(data: Path) -> None:
    for name, change in (("changed", lambda c: c[:-1] + b"?"), ("shorter", lambda c: c[:-1])):
        shutil.copytree(data / "plain", data / name)
        shard = next((data / name).rglob("*.mds"))
        shard.write_bytes(change(shard.read_bytes()))
    changed = start("inspect_data.py", "changed", "--verify", folder=data)
    shorter = start("inspect_data.py", "shorter", folder=data)
    _, (error,) = failure(changed)
    assert re.search(r"the content of changed/.*\.mds has changed", error)
    expect_error(shorter, r"\.mds has \d+ bytes instead")


def test_inspect_run(data: Path) -> None:
    run = BASE.replace("shards/a, proportion: 2", "plain, proportion: 3")
    run = run.replace("shards/b", "packed")
    (data / "run.yaml").write_text(run)
    (data / "wrong.yaml").write_text(run.replace("seq_len: 64", "seq_len: 32"))
    right = start("inspect_data.py", "run.yaml", "--samples", "0", folder=data)
    wrong = start("inspect_data.py", "wrong.yaml", folder=data)
    said = expect_success(right)
    assert re.search(r"^plain +75\.0% +40 ", said, re.MULTILINE)
    assert re.search(r"^packed +25\.0% +40 ", said, re.MULTILINE)
    expect_error(wrong, r"plain holds sequences of 64 tokens and the run has seq_len 32")


def test_inspect_refuses(data: Path) -> None:
    nowhere = start("inspect_data.py", "nowhere", folder=data)
    none = start("inspect_data.py", "plain", "--max-samples", "0", folder=data)
    expect_error(nowhere, "no folder nowhere")
    expect_error(none, "must be positive")

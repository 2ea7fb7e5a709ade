"""A folder that any loader takes, or one line that says why there is none."""

import json
import random
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from taidscale.data.tokenizer import load_tokenizer
from tests.data.test_unknown import save_characters
from tests.tiny_models import save_byte_tokenizer
from tests.tools.commands import expect_error, expect_success, start

SYLLABLES = ["ha", "lo", "mi", "re", "the", "ing", "st", "en", "ab", "ba", "a", "so", "。", "猫"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """200 documents in `a.jsonl`, of which the last is broken in `b.jsonl`."""
    source = random.Random(0)
    words = ["".join(source.choices(SYLLABLES, k=1 + k % 5)) for k in range(300)]
    lines = [json.dumps({"text": " ".join(source.choices(words, k=50)) + "\n"}) for _ in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "b.jsonl").write_text("\n".join(lines)[:-5])
    save_byte_tokenizer(tmp_path / "bytes")
    return tmp_path


def test_train_tokenizer(corpus: Path) -> None:
    options = ["--vocab-size", "420", "--symbols", "<|im_start|>", "<|im_end|>"]
    bpe = start(
        "train_tokenizer.py", "a.jsonl", "--out", "bpe", *options, "--compare", "bytes",
        folder=corpus,
    )  # fmt: skip
    unigram = start(
        "train_tokenizer.py", "b.jsonl", "--on-error", "skip", "--out", "unigram", *options,
        "--kind", "unigram", folder=corpus,
    )  # fmt: skip
    said = expect_success(bpe)
    assert re.search(r"training on 198 documents", said)
    assert re.search(r"the same [\d,]+ tokens for \d+ texts, and every text got back", said)
    assert "on 2 held-out documents" in said
    measured = re.findall(r"^(bpe|bytes) +([\d,]+) +([\d.]+) +([\d.]+) ", said, re.MULTILINE)
    assert [name for name, *_ in measured] == ["bpe", "bytes"]
    assert [size for _, size, *_ in measured] == ["420", "257"]
    assert float(measured[0][2]) > 1.5 * float(measured[1][2]) == 1.5
    said = expect_success(unigram)
    assert "1 skipped: broken JSON" in said
    assert "on 1 held-out documents" in said
    for kind in ("bpe", "unigram"):
        folder = corpus / kind
        assert {"tokenizer.model", "tokenizer.json", "tokenizer_config.json"} <= {
            path.name for path in folder.iterdir()
        }
        text = "<|im_start|>halo\n\n  misore▁ </s>\0🙂<|im_end|>"
        ids = load_tokenizer(str(folder / "tokenizer.model")).encode_batch([text])[0]
        hf = AutoTokenizer.from_pretrained(folder)
        assert hf(text).input_ids == ids
        assert hf.decode(ids) == text
        assert len(hf) == 420
        assert hf.eos_token_id == 2 not in ids
    assert not list(corpus.glob("*.partial"))


def test_a_rival_that_loses_text_does_not_look_best(corpus: Path) -> None:
    rival = save_characters(corpus / "characters")
    tool = start(
        "train_tokenizer.py", "a.jsonl", "--out", "bpe", "--vocab-size", "420", "--compare", rival,
        folder=corpus,
    )  # fmt: skip
    said, errors = tool.communicate(timeout=120)
    assert tool.returncode == 0, errors
    shares = re.findall(r"^\S+ +[\d,]+ +[\d.]+ +[\d.]+ +([\d.]+)% ", said, re.MULTILINE)
    assert float(shares[0]) == 0 < float(shares[1])
    assert re.search(r"warning: tokenizer \S+characters does not know all of the text", errors)


def test_train_tokenizer_refuses(corpus: Path) -> None:
    (corpus / "used").mkdir()
    (corpus / "used" / "precious").touch()
    tools = {
        out: start("train_tokenizer.py", source, "--out", out, "--vocab-size", "99", folder=corpus)
        for source, out in (("a.jsonl", "used"), ("a.jsonl", "small"), ("b.jsonl", "broken"))
    }
    expect_error(tools["used"], "used exists already")
    expect_error(tools["broken"], r"b\.jsonl, line 200: broken JSON")
    said, errors = tools["small"].communicate(timeout=600)
    assert tools["small"].returncode == 2, errors
    assert "Traceback" not in errors
    assert re.search(r"error: --vocab-size 99 is too small: .* set --vocab-size above \d+", errors)
    assert "training on 198 documents" in said
    assert sorted(path.name for path in corpus.iterdir()) == ["a.jsonl", "b.jsonl", "bytes", "used"]

"""Which ids stand for which text."""

import json
import logging
import shutil
import warnings
from pathlib import Path

import pytest
import sentencepiece

from taidscale.data.tokenizer import fingerprint, load_tokenizer
from tests.tiny_models import save_byte_tokenizer
from tests.tiny_tokenizer import SEPARATOR


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentencepiece")
    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tiny"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return folder / "tiny.model"


def test_hugging_face_round_trip(tiny_tokenizer_folder):
    tokenizer = load_tokenizer(str(tiny_tokenizer_folder))
    texts = ["hello world", "日本語", "x" * 50]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded = tokenizer.encode_batch(texts)
    assert [len(ids) for ids in encoded] == [len(text.encode()) for text in texts]
    assert [tokenizer.decode(ids) for ids in encoded] == texts
    assert tokenizer.encode_batch([]) == []
    assert (tokenizer.size, tokenizer.eos_id) == (257, 256)
    assert tokenizer.vocabulary()[SEPARATOR] == 256
    assert tokenizer.hf is not None


def test_sentencepiece_round_trip(sentencepiece_model):
    tokenizer = load_tokenizer(str(sentencepiece_model))
    texts = ["the fox", "lazy dog"]
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts
    assert tokenizer.eos_id == 2
    assert tokenizer.size == len(tokenizer.vocabulary())
    assert tokenizer.hf is None


def test_sentencepiece_without_separator(sentencepiece_model, tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        input=str(sentencepiece_model.with_name("text.txt")),
        model_prefix=str(tmp_path / "bare"),
        vocab_size=40,
        hard_vocab_limit=False,
        eos_id=-1,
        minloglevel=2,
    )
    assert load_tokenizer(str(tmp_path / "bare.model")).eos_id is None


def test_fingerprint_sees_only_the_vocabulary(tiny_tokenizer_folder, tmp_path):
    vocabulary = load_tokenizer(str(tiny_tokenizer_folder)).vocabulary()
    backwards = dict(reversed(vocabulary.items()))
    assert fingerprint(vocabulary) == fingerprint(backwards)
    assert fingerprint(vocabulary) != fingerprint(vocabulary | {SEPARATOR: 257})
    chatty = tmp_path / "chatty"
    shutil.copytree(tiny_tokenizer_folder, chatty)
    (chatty / "chat_template.jinja").write_text("{{ messages }}")
    assert fingerprint(load_tokenizer(str(chatty)).vocabulary()) == fingerprint(vocabulary)


@pytest.mark.parametrize("name", ["./absent", "/absent/tokenizer", "~/absent", "absent.model"])
def test_missing_path(name):
    with pytest.raises(ValueError, match="there is no such file or folder"):
        load_tokenizer(name)


def test_unloadable(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no tokenizer in the folder"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizerFast"}')
    with pytest.raises(ValueError, match="cannot load a tokenizer from the folder"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        load_tokenizer(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="Hub id"):
        load_tokenizer("no-such-owner/no-such-tokenizer")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such file or folder"):
        load_tokenizer("here/no-such-tokenizer")  # without asking the Hub, for half a minute


def test_real_vocabularies(real_material):
    qwen = load_tokenizer(str(real_material / "tokenizers/qwen2.5"))
    assert qwen.size == 151_665
    assert qwen.eos_id == qwen.vocabulary()["<|im_end|>"]
    mistral = load_tokenizer(str(real_material / "tokenizers/sentencepiece/mistral-v1-32k.model"))
    assert (mistral.size, mistral.eos_id) == (32_000, 2)
    assert load_tokenizer(str(real_material / "tokenizers/llm-jp-v2.2-50k")).size >= 48_586


@pytest.mark.parametrize("class_name", ["TokenizersBackend", "Qwen2Tokenizer"])
@pytest.mark.parametrize("extra", [["<|more|>"], None])
def test_saved_by_the_next_transformers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, class_name: str, extra: list[str] | None
) -> None:
    save_byte_tokenizer(tmp_path, ("<|more|>", "<|image|>"))
    path = tmp_path / "tokenizer_config.json"
    newer: dict[str, object] = {"tokenizer_class": class_name, "backend": "tokenizers"}
    if extra:
        newer["extra_special_tokens"] = extra
        newer["model_specific_special_tokens"] = {"image_token": "<|image|>"}
    path.write_text(json.dumps(json.loads(path.read_text()) | newer))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    with caplog.at_level(logging.WARNING):
        tokenizer = load_tokenizer(str(tmp_path))
    assert not caplog.records
    assert tokenizer.hf is not None
    assert tokenizer.hf.is_fast
    assert tokenizer.eos_id == 256
    assert set(tokenizer.control_ids) == ({256, 257, 258} if extra else {256})
    assert tokenizer.encode_batch(["a<|more|>"])[0] != [97, 257]
    assert tokenizer.hf.chat_template == "{{ messages }}"
    tokenizer.hf.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(str(tmp_path / "saved"))
    assert again.control_ids == tokenizer.control_ids
    assert again.vocabulary() == tokenizer.vocabulary()

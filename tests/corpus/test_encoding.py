"""Which ids texts become, which texts are left out, and what is counted."""

import json
import pickle
import unicodedata

import numpy as np
import pytest
from tokenizers import normalizers
from transformers import AutoTokenizer, ByT5Tokenizer

from taidscale.corpus import encoding
from taidscale.corpus.documents import Reading, Sources
from taidscale.corpus.encoding import MAX_CHARACTERS, Encoder, EncodingSettings
from taidscale.data.counts import Counts

TOKENIZERS = (
    "qwen2.5",
    "llm-jp-v2.2-50k",
    "sentencepiece/llm-jp-v3.1-100k.model",
    "sentencepiece/mistral-v1-32k.model",
)
CORPORA = ("en/*.txt", "en/gutenberg/carroll-alice.txt", "en/c4_demo.jsonl", "ja/aozora.jsonl.gz")


def lines_of(folder, texts, name="a.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def encode(encoder, source, **reading):
    documents, total = [], Counts()
    for block in Sources([source], Reading(**reading)):
        some, counts = encoder(block)
        documents += some
        total += counts
    assert total.documents == len(documents)
    assert total.tokens == sum(len(document.ids) for document in documents)
    assert all(document.ids.dtype == np.uint32 for document in documents)
    return documents, total


@pytest.fixture
def tiny(tiny_tokenizer_folder):
    def make(**settings):
        return Encoder(EncodingSettings(tokenizer=str(tiny_tokenizer_folder), **settings))

    return make


# --- ids ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("corpus", CORPORA)
def test_real_corpora_come_back(material, name, corpus):
    encoder = Encoder(EncodingSettings(tokenizer=str(material / "tokenizers" / name)))
    source, reading = str(material / "corpora" / corpus), {"max_documents": 60}
    documents, counts = encode(encoder, source, **reading)
    texts = list(Sources([source], Reading(**reading)).texts())
    assert len(texts) > 0
    assert [encoder.tokenizer.decode(document.ids.tolist()) for document in documents] == texts
    assert counts == Counts(
        documents=len(texts),
        characters=sum(map(len, texts)),
        tokens=counts.tokens,
        raw_bytes=counts.raw_bytes,
    )
    assert counts.raw_bytes == sum(b.num_bytes for b in Sources([source], Reading(**reading)))


ODD_TEXTS = [
    " a",
    "\n a  b\t",
    "a\r\nb",
    "ﾃｷｽﾄ１",
    "\u3000全角",
    "か\u3099",
    "👨‍👩‍👧",
    "\u2028\ufeff",
    "▁a▁",
]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_tokenizers_normalise(material, tmp_path, name):
    encoder = Encoder(EncodingSettings(tokenizer=str(material / "tokenizers" / name)))
    documents, _ = encode(encoder, lines_of(tmp_path, ODD_TEXTS))
    found = [encoder.tokenizer.decode(document.ids.tolist()) for document in documents]
    if name == "qwen2.5":  # NFC: characters in several parts become one
        assert found == [unicodedata.normalize("NFC", text) for text in ODD_TEXTS]
        assert found != ODD_TEXTS
    else:  # the sign that stands for a space becomes one
        assert found == [text.replace("▁", " ") for text in ODD_TEXTS]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_names_of_control_tokens_are_text(material, tmp_path, name):
    encoder = Encoder(EncodingSettings(tokenizer=str(material / "tokenizers" / name)))
    hf = encoder.tokenizer.hf
    names = ["<s>", "</s>", "<unk>"] if hf is None else hf.all_special_tokens
    texts = [f"before{name}after {name}\n{name}" for name in names]
    documents, _ = encode(encoder, lines_of(tmp_path, texts))
    vocabulary = encoder.tokenizer.vocabulary()
    control = [vocabulary[name] for name in names]
    for text, document in zip(texts, documents, strict=True):
        assert not np.isin(document.ids, control).any()
        assert encoder.tokenizer.decode(document.ids.tolist()) == text


def test_control_tokens_after_a_chat_was_encoded(material, tmp_path):
    encoder = Encoder(EncodingSettings(tokenizer=str(material / "tokenizers/qwen2.5")))
    hf = encoder.tokenizer.hf
    assert len(hf("<|im_end|>")["input_ids"]) == 1
    documents, _ = encode(encoder, lines_of(tmp_path, ["<|im_end|>"]))
    assert len(documents[0].ids) > 1
    assert len(hf("<|im_end|>")["input_ids"]) == 1


def test_slow_tokenizer(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path)
    encoder = Encoder(EncodingSettings(tokenizer=str(tmp_path)))
    assert not encoder.tokenizer.hf.is_fast
    source = lines_of(tmp_path, ["日本 text", "a</s>b", "c"])
    with pytest.raises(ValueError, match=r"line 2: tokenizer .* makes a control token of its name"):
        encode(encoder, source)
    skipping = Encoder(EncodingSettings(tokenizer=str(tmp_path), on_error="skip"))
    documents, counts = encode(skipping, source)
    for text, document in zip(["日本 text", "c"], documents, strict=True):
        assert document.ids.tolist() == [byte + 3 for byte in text.encode()]
    assert counts.skipped == {"control token in text": 1}


def test_lengths_that_a_tokenizer_prescribes_are_ignored(tiny_tokenizer_folder, tmp_path):
    hf = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    hf.backend_tokenizer.enable_truncation(8)
    hf.backend_tokenizer.enable_padding(length=100)
    hf.save_pretrained(tmp_path)
    encoder = Encoder(EncodingSettings(tokenizer=str(tmp_path)))
    documents, _ = encode(encoder, lines_of(tmp_path, ["x" * 50, "y"]))
    assert [len(document.ids) for document in documents] == [50, 1]


def test_blocks_and_batches_change_nothing(tiny, tmp_path, monkeypatch):
    texts = [f"{k}" * (k % 50 + 1) for k in range(500)]
    source, encoder = lines_of(tmp_path, texts), pickle.loads(pickle.dumps(tiny()))
    expected = [encoder.tokenizer.encode_batch([text])[0] for text in texts]
    for block_bytes, characters in ((1000, 1 << 18), (1 << 25, 100), (1 << 25, 1 << 18)):
        monkeypatch.setattr(encoding, "BATCH_CHARACTERS", characters)
        documents, _ = encode(encoder, source, block_bytes=block_bytes)
        assert [document.ids.tolist() for document in documents] == expected
        assert all(document.weights is None for document in documents)
    assert len(pickle.dumps(encoder)) < 1000  # the tokenizer does not travel


def test_ids_beyond_the_vocabulary(tiny, tmp_path, monkeypatch):
    encoder = tiny()
    tokenizer = encoder.tokenizer
    monkeypatch.setattr(encoding, "_load", lambda *_: (tokenizer, np.zeros(50, np.bool_)))
    with pytest.raises(ValueError, match=r"gives the id .* the largest in its vocabulary is 49"):
        encode(encoder, lines_of(tmp_path, ["text"]))


# --- what is left out -----------------------------------------------------------------


def test_empty_documents(tiny, tiny_tokenizer_folder, tmp_path):
    source = lines_of(tmp_path, ["", " \n", "text", None, "zz"])
    documents, counts = encode(tiny(), source)
    assert (len(documents), counts.empty, counts.skipped) == (2, 3, {})
    hf = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    hf.backend_tokenizer.normalizer = normalizers.Replace("z", "")
    hf.save_pretrained(tmp_path / "tokenizer")
    encoder = Encoder(EncodingSettings(tokenizer=str(tmp_path / "tokenizer")))
    documents, counts = encode(encoder, source)
    assert (len(documents), counts.empty) == (1, 4)


@pytest.mark.parametrize(
    ("settings", "lengths", "filtered"),
    [
        ({"min_characters": 3}, [3, 4, 5], {"min_characters": 2}),
        ({"max_characters": 3}, [1, 2, 3], {"max_characters": 2}),
        ({"min_tokens": 2, "max_tokens": 12}, [2, 3, 4], {"min_tokens": 1, "max_tokens": 1}),
        (
            {"min_characters": 2, "max_tokens": 12},
            [2, 3, 4],
            {"min_characters": 1, "max_tokens": 1},
        ),
    ],
)
def test_filters(tiny, tmp_path, settings, lengths, filtered):
    texts = ["a", "bb", "ccc", "本本本本", "本本本本本"]  # a token per byte
    documents, counts = encode(tiny(**settings), lines_of(tmp_path, texts))
    wanted = [texts[length - 1] for length in lengths]
    assert [len(document.ids) for document in documents] == [len(t.encode()) for t in wanted]
    assert counts.filtered == filtered
    assert counts.characters == sum(lengths)
    assert counts.skipped == {}


def test_a_document_too_long(tiny, tmp_path):
    source = lines_of(tmp_path, ["short", "x" * (MAX_CHARACTERS + 1), "last"])
    with pytest.raises(ValueError, match=r"line 2: a document of 10,000,001 .* --max-characters"):
        encode(tiny(), source)
    documents, counts = encode(tiny(on_error="skip"), source)
    assert (len(documents), counts.skipped, counts.filtered) == (2, {"too long": 1}, {})
    documents, counts = encode(tiny(max_characters=MAX_CHARACTERS), source)
    assert (len(documents), counts.skipped, counts.filtered) == (2, {}, {"max_characters": 1})


def test_records_that_cannot_be_used(tiny, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": 2}\n{"text": "three"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: column 'text' holds a int"):
        encode(tiny(), str(path))
    documents, counts = encode(tiny(on_error="skip"), str(path))
    assert [len(document.ids) for document in documents] == [3, 5]
    assert counts.skipped == {"wrong type": 1}


def test_mistakes_in_settings(tiny, tmp_path):
    with pytest.raises(ValueError, match="no tokenizer at"):
        Encoder(EncodingSettings(tokenizer=str(tmp_path / "none")))
    with pytest.raises(ValueError, match="--loss-on assistant needs chats"):
        encode(tiny(loss_on="assistant"), lines_of(tmp_path, ["text"]))

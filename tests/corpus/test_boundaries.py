"""What stands between documents is what their tokenizer and its template mean to stand there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taidscale.corpus.boundaries import Boundaries
from taidscale.corpus.documents import Reading
from taidscale.corpus.encoding import EncodingSettings
from taidscale.corpus.packing import lay_out
from taidscale.corpus.prepare import prepare
from taidscale.data.manifest import Manifest
from taidscale.data.tokenizer import load_tokenizer
from tests.corpus.chat_tokenizers import (
    LLAMA3,
    LLM_JP,
    QWEN_MARKED,
    save_llama3,
    with_template,
)
from tests.corpus.prepared import pieces
from tests.tiny_models import save_byte_tokenizer

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def prepared(folder: Path, tokenizer: Path, chats: int, **settings: Any) -> tuple[Manifest, str]:
    """Chats, or texts, in a sample of their own each; the manifest and the first one's text."""
    row = {"chat": CHAT, "text": "some text"}
    (folder / "a.jsonl").write_text((json.dumps(row) + "\n") * 4)
    manifest = prepare(
        [str(folder / "a.jsonl")],
        folder / "out",
        Reading(chat_column="chat" if chats else None),
        EncodingSettings(tokenizer=str(tokenizer)),
        **{"seq_len": 100, "packing": "best_fit"} | settings,
    )
    return manifest, load_tokenizer(str(tokenizer)).decode(pieces(folder / "out")[0])


def test_texts_end_with_what_ends_texts(tmp_path: Path, material: Path) -> None:
    qwen = material / "tokenizers/qwen2.5"
    manifest, text = prepared(tmp_path, qwen, chats=False)
    assert (manifest.separator_id, text) == (151643, "some text<|endoftext|>")
    (remark,) = manifest.remarks
    assert remark.startswith("documents end with <|endoftext|> (151643), as <|im_end|> (151645) ")
    llama = save_llama3(tmp_path / "llama", LLAMA3)
    assert Boundaries(load_tokenizer(str(llama)), None).separator_id == 1  # <|end_of_text|>
    given = Boundaries(load_tokenizer(str(qwen)), 151645)
    assert (given.separator_id, given.remarks) == (151645, [])


def test_what_a_tokenizer_does_not_tell(tmp_path: Path) -> None:
    save_byte_tokenizer(tmp_path / "plain", ("<|stop|>",))
    plain = Boundaries(load_tokenizer(str(tmp_path / "plain")), None)
    assert (plain.separator_id, plain.remarks) == (256, [])
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    chat = with_template(tmp_path / "plain", tmp_path / "chat", template)
    doubtful = Boundaries(load_tokenizer(str(chat)), None)
    assert doubtful.separator_id == 256
    assert "<|end|> (256), which also ends turns" in doubtful.remarks[0]
    hf = load_tokenizer(str(chat)).hf
    assert hf is not None
    hf.add_special_tokens({"additional_special_tokens": ["<|stop|>"]})
    hf.save_pretrained(chat)
    (chat / "generation_config.json").write_text('{"eos_token_id": [256, 257]}')
    told = Boundaries(load_tokenizer(str(chat)), None)
    assert told.separator_id == 257
    assert told.remarks[0].startswith("documents end with <|stop|> (257), as <|end|> (256) ends")


def test_chats_end_once_and_begin_once(tmp_path: Path, material: Path) -> None:
    llama = save_llama3(tmp_path / "llama", LLAMA3)
    manifest, text = prepared(tmp_path, llama, chats=True, bos=True)
    hf = load_tokenizer(str(llama)).hf
    assert hf is not None
    assert text == hf.apply_chat_template(CHAT, tokenize=False)
    assert (text.count("<|begin_of_text|>"), text.count("<|eot_id|>")) == (1, 2)
    assert (manifest.separate, manifest.bos_id) == ("unended", 0)
    said = " ".join(manifest.remarks)
    assert "--bos adds nothing" in said
    assert "chats end as their template ends them" in said
    assert "within_document" in said


def test_chats_whose_template_does_not_end_them(tmp_path: Path, material: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    folder = with_template(material / "tokenizers/qwen2.5", tmp_path / "t", template)
    manifest, text = prepared(tmp_path, folder, chats=True)
    assert text == "hi\nho\n<|im_end|>"
    assert not any("as their template ends" in remark for remark in manifest.remarks)


def test_a_separator_that_is_wanted_follows_all(tmp_path: Path, material: Path) -> None:
    qwen = material / "tokenizers/qwen2.5"
    manifest, text = prepared(tmp_path, qwen, chats=True, separator_id=151643)
    assert text.endswith("ho<|im_end|>\n<|endoftext|>")
    assert manifest.separate == "all"


@pytest.mark.parametrize(("template", "is_left_out"), [(QWEN_MARKED, True), (None, False)])
def test_marks_that_leave_out_the_end(
    tmp_path: Path, material: Path, template: str | None, is_left_out: bool
) -> None:
    folder = material / "tokenizers/qwen2.5"
    if template is not None:
        folder = with_template(folder, tmp_path / "t", template)
    boundaries = Boundaries(load_tokenizer(str(folder)), None, chats=True)
    boundaries.note_weights()
    assert any("does not learn to end" in said for said in boundaries.remarks) is is_left_out


def test_llm_jp_keeps_its_own(tmp_path: Path, material: Path) -> None:
    folder = with_template(material / "tokenizers/llm-jp-v2.2-50k", tmp_path / "t", LLM_JP)
    boundaries = Boundaries(load_tokenizer(str(folder)), None, chats=True)
    assert boundaries.separator_id == boundaries.tokenizer.eos_id
    assert boundaries.separate == "unended"


def test_rows_of_ended_and_begun_documents() -> None:
    ids = [np.array(document, np.uint32) for document in ([7, 8], [1, 8, 9], [5])]
    half = np.full(3, 0.5, np.float16)
    row = lay_out(
        ids, [None, half, None], [False, True, False], separator_id=2, bos_id=1, dtype="uint16"
    )
    assert row.tokens.tolist() == [1, 7, 8, 2, 1, 8, 9, 1, 5, 2]
    assert row.lengths.tolist() == [4, 3, 3]
    assert row.weights is not None
    assert row.weights.tolist() == [1, 1, 1, 1, 0.5, 0.5, 0.5, 1, 1, 1]


@pytest.mark.parametrize(("packing", "together"), [("concatenate", True), ("best_fit", False)])
def test_chats_that_share_samples(tmp_path: Path, packing: str, together: bool) -> None:
    llama = save_llama3(tmp_path / "llama", LLAMA3)
    size = len(load_tokenizer(str(llama)).hf.apply_chat_template(CHAT, return_dict=False))  # type: ignore[union-attr]
    manifest, _ = prepared(tmp_path, llama, chats=True, packing=packing, seq_len=size)
    assert manifest.has_chats_together is together

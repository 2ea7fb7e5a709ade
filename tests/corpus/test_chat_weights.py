"""Weight 1 exactly on the tokens of the answer's characters, whatever these are."""

import json
from pathlib import Path

import numpy as np
import pytest

from taidscale.corpus.chats import ChatError, ChatTemplate
from taidscale.corpus.documents import Reading, Sources
from taidscale.corpus.encoding import Encoder, EncodingSettings
from taidscale.data.tokenizer import load_tokenizer
from tests.corpus.chat_tokenizers import (
    LLAMA3,
    LLAMA3_MARKED,
    LLM_JP,
    LLM_JP_MARKED,
    QWEN_MARKED,
    save_llama3,
    with_template,
)

ANSWERS = {
    "plain": "Well done",
    "kanji": "それは鬱",
    "rare kanji": "𠮷野家は𠮷",
    "emoji": "Well done 🗼",
    "family": "done👨\u200d👩\u200d👧",
    "combining": "cafe\u0301",
    "composed kana": "か\u3099",
    "only emoji": "🫠",
}
# Template: what ends the answer in it, and whether that is the assistant's.
TEMPLATES = {
    "qwen": ("<|im_end|>", True),
    "qwen marked": ("<|im_end|>", False),
    "llama3": ("<|eot_id|>", True),
    "llama3 marked": ("<|eot_id|>", True),
    "llm-jp": ("<EOD|LLM-jp>", True),
    "llm-jp marked": ("<EOD|LLM-jp>", True),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, material: Path) -> dict[str, Path]:
    """Tokenizer by name of the template."""
    folder, qwen = tmp_path_factory.mktemp("tokenizers"), material / "tokenizers/qwen2.5"
    japanese = material / "tokenizers/llm-jp-v2.2-50k"
    return {
        "qwen": qwen,
        "qwen marked": with_template(qwen, folder / "q", QWEN_MARKED),
        "llama3": save_llama3(folder / "l", LLAMA3),
        "llama3 marked": save_llama3(folder / "lm", LLAMA3_MARKED),
        "llm-jp": with_template(japanese, folder / "j", LLM_JP),
        "llm-jp marked": with_template(japanese, folder / "jm", LLM_JP_MARKED),
    }


def weighted(folder: Path, answers: list[str], path: Path) -> tuple[str, list[str]]:
    """What the tokens of weight 1 decode to, and the tokens that they are."""
    chat = []
    for answer in answers:
        chat += [{"role": "user", "content": "鬱?"}, {"role": "assistant", "content": answer}]
    path.write_text(json.dumps({"chat": chat}))
    encoder = Encoder(EncodingSettings(tokenizer=str(folder), loss_on="assistant"))
    (block,) = Sources([str(path)], Reading(chat_column="chat"))
    (document,), _ = encoder(block)
    ids = document.ids[np.asarray(document.weights) == 1].tolist()
    assert encoder.tokenizer.hf is not None
    return encoder.tokenizer.decode(ids), encoder.tokenizer.hf.convert_ids_to_tokens(ids)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("template", TEMPLATES)
def test_exactly_the_answer(
    folders: dict[str, Path], template: str, answer: str, tmp_path: Path
) -> None:
    end, is_own = TEMPLATES[template]
    hf = load_tokenizer(str(folders[template])).hf
    assert hf is not None
    normal = hf.backend_tokenizer.normalizer
    shown = answer if normal is None else normal.normalize_str(answer).replace("▁", " ").lstrip()
    said, _ = weighted(folders[template], [answer, answer], tmp_path / "a.jsonl")
    assert said == (shown + end * is_own) * 2


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "llama3"])
def test_newlines_that_merge_with_the_template(
    folders: dict[str, Path], template: str, tmp_path: Path
) -> None:
    """The prompt of all three ends in a newline, which one token may join with the answer's.

    Llama 3's unmarked template trims answers.
    """
    said, tokens = weighted(folders[template], ["\n\nyes\n"], tmp_path / "a.jsonl")
    end, is_own = TEMPLATES[template]
    if template.startswith("llm-jp"):  # which has no token of several newlines
        assert said == "\n\nyes\n" + end
        return
    # A token of the prompt's newline and the answer's is the prompt's.
    assert said == "yes\n" + end * is_own
    assert tokens[0].endswith("yes"[0]) or tokens[0].startswith("y")


def test_a_token_at_the_end_that_the_template_shares(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Marked or not, it is the template's."""
    turns = "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}"
    for mark, unmark in (("{% generation %}", "{% endgeneration %}"), ("", "")):
        template = turns + mark + "{{ m.content }}" + unmark
        template += "{% else %}{{ m.content }}{% endif %}\n\n{% endfor %}"
        template += "{% if add_generation_prompt %}assistant:{% endif %}"
        folder = with_template(folders["qwen"], tmp_path / f"t{len(mark)}", template)
        said, _ = weighted(folder, ["yes\n"], tmp_path / "a.jsonl")
        assert said == ("yes" if mark else "yes\n\n")  # unmarked, all that a turn adds is its own


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>"
        "{% endfor %}",
        "{% macro say(m) %}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>"
        "{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}",
        "{% for m in messages %}{%- generation -%}\n {{ m.content }}\n{%- endgeneration %}"
        "<|im_end|>{% endfor %}",
        "{% set all %}{% for m in messages %}<|im_start|>{% generation %}{{ m.content }}"
        "{% endgeneration %}<|im_end|>{% endfor %}{% endset %}{{ all }}",
    ],
    ids=["first", "macro", "trimmed", "set"],
)
def test_marks_wherever_they_stand(folders: dict[str, Path], template: str, tmp_path: Path) -> None:
    folder = with_template(folders["qwen"], tmp_path / "t", template)
    said, _ = weighted(folder, ["one 鬱", "two"], tmp_path / "a.jsonl")
    assert said == "鬱?one 鬱鬱?two"


def test_a_template_that_changes_what_is_marked(folders: dict[str, Path], tmp_path: Path) -> None:
    template = (
        "{% macro say(m) %}{% generation %} {{ m.content }} {% endgeneration %}{% endmacro %}"
        "{% for m in messages %}{{ say(m) | trim }}<|im_end|>{% endfor %}"
    )
    folder = with_template(folders["qwen"], tmp_path / "t", template)
    chats = ChatTemplate(load_tokenizer(str(folder)).hf)
    messages = [{"role": "assistant", "content": "yes"}]
    text = chats.render(messages)
    with pytest.raises(ChatError, match="changes what its"):
        chats.weights(messages, text, chats.encode(text)[1])
    with pytest.raises(ChatError, match=r"a message contains '\\ufdd0'"):
        chats.render([{"role": "assistant", "content": "\ufdd0"}])

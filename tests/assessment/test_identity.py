"""Contradictions of the identity that rules can find."""

from pathlib import Path

import pytest

from taidscale.assessment.identity import Facts, IdentityRules, read_facts, shipped_prompts

FACTS = Facts(name="TinySwallow", developer="Sakana AI", may_name=["Qwen2.5-32B-Instruct"])


@pytest.fixture(scope="module")
def rules() -> IdentityRules:
    return IdentityRules(FACTS, shipped_prompts().others)


@pytest.mark.parametrize(
    ("answer", "loose", "strict"),
    [
        ("I am TinySwallow, made by Sakana AI.", (), ()),
        ("I was distilled from Qwen2.5-32B by Alibaba.", (), ()),
        ("I am ChatGPT, a large language model trained by OpenAI.",) + (("ChatGPT", "OpenAI"),) * 2,
        ("I'm GPT-4.", ("GPT",), ("GPT",)),
        ("I run on llama3, you know.", ("llama",), ()),
        ("ChatGPT is a model of OpenAI.", ("ChatGPT", "OpenAI"), ()),
        ("I am not ChatGPT, Claude or Gemini.", (), ()),
        ("I am not TinySwallow, I am Claude.", ("Claude",), ("Claude",)),
        ("I don't know who I am, but I was created by Google.", ("Google",), ("Google",)),
        ("Metadata is data; the metal is hot.", (), ()),
        ("私はOpenAIが開発したChatGPTです。", ("ChatGPT", "OpenAI"), ("ChatGPT", "OpenAI")),
        ("私はChatGPTではありません。", (), ()),
        ("私はChatGPTではなく、TinySwallowです。", (), ()),
        ("私はTinySwallowではなく、Claudeです。", ("Claude",), ("Claude",)),
        ("通義千問とは別のモデルです。", (), ()),
        ("", (), ()),
    ],
)  # fmt: skip
def test_rules(
    rules: IdentityRules, answer: str, loose: tuple[str, ...], strict: tuple[str, ...]
) -> None:
    found = rules.find(answer)
    assert {*found.loose} == {*loose}
    assert {*found.strict} == {*strict}


def test_own_name(rules: IdentityRules) -> None:
    assert rules.find("私の名前はTinySwallowです").names_itself
    assert not rules.find("I am a swallow").names_itself
    other = IdentityRules(Facts(name="Qwen2.5-1.5B", developer="Alibaba"), [["Qwen", "Alibaba"]])
    assert not other.find("I am Qwen by Alibaba").loose


def test_shipped_prompts() -> None:
    shipped = shipped_prompts()
    assert {prompt.language for prompt in shipped.identity} == {"en", "ja"}
    assert len({prompt.text for prompt in shipped.identity}) == len(shipped.identity)


def test_facts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "facts.yaml"
    with pytest.raises(ValueError, match=r"no file .*facts\.yaml; write one with name, developer"):
        read_facts(path)
    path.write_text("name: X\nmaker: Y\n")
    with pytest.raises(ValueError, match=r"facts\.yaml: developer: Field required"):
        read_facts(path)
    path.write_text("name: [")
    with pytest.raises(ValueError, match="broken YAML"):
        read_facts(path)

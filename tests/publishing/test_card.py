"""A card is completed, and what people have written in it stays."""

import json
from pathlib import Path

import pytest
import yaml

from taidscale.publishing.card import Card, table
from taidscale.publishing.results import results_section

TEXT = """---
# chosen by hand
license:   mit
tags: [b, a]
---
Mine.

<!-- taidscale:run step=7 -->
old
<!-- /taidscale:run -->

Mine too \\1.
"""


def test_what_does_not_change_stays_to_the_letter() -> None:
    card = Card.parse(TEXT, "README.md")
    assert card.text == TEXT
    assert card.run_step == 7
    assert card.with_metadata({"license": "mit"}).text == TEXT
    assert card.with_license(None).text == card.with_license("mit").text == TEXT


def test_a_section_is_replaced_or_added() -> None:
    card = Card.parse(TEXT, "README.md").with_section("run", "new \\1", "step=9")
    assert card.text == TEXT.replace("step=7", "step=9").replace("old", "new \\1")
    assert card.run_step == 9
    more = card.with_section("results", "figures")
    assert more.text.startswith(card.text)
    assert more.with_section("results", "figures") == more


def test_metadata_are_added_in_order() -> None:
    card = Card.parse(TEXT, "README.md").with_metadata({"language": ["ja"], "custom": "あ"})
    metadata = yaml.safe_load(card.text.split("---\n")[1])
    assert metadata == {"license": "mit", "language": ["ja"], "tags": ["b", "a"], "custom": "あ"}
    assert list(metadata)[:3] == ["license", "language", "tags"]
    assert card.body == Card.parse(TEXT, "README.md").body


def test_damaged_metadata() -> None:
    with pytest.raises(ValueError, match=r"README\.md: its metadata are not YAML: "):
        Card.parse("---\na: [\n---\n", "README.md")
    with pytest.raises(ValueError, match=r"README\.md: its metadata are no mapping"):
        Card.parse("---\n- a\n---\n", "README.md")


@pytest.mark.parametrize(
    ("own", "wanted", "result"),
    [
        ("apache-2.0", None, "apache-2.0"),
        ("apache-2.0", "mit", "mit"),
        ("gemma", "gemma", "gemma"),
        (None, "mit", "mit"),
    ],
)
def test_a_licence_that_the_sources_allow(own: str | None, wanted: str, result: str) -> None:
    card = Card.new({"license": own} if own else {}, "")
    assert card.with_license(wanted).metadata["license"] == result


def test_a_licence_that_they_do_not_allow() -> None:
    with pytest.raises(ValueError, match=r"--license mit: .* are under gemma, which .* keeps"):
        Card.new({"license": "gemma"}, "").with_license("mit")
    with pytest.raises(ValueError, match=r"different licences, or none .* --license apache-2\.0"):
        Card.new({}, "").with_license(None)


def test_results_of_lm_eval(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    arc = {"alias": "arc", "acc,none": 0.25, "acc_stderr,none": 0.0125, "em,strict": 1.0}
    path.write_text(json.dumps({"results": {"arc_easy": arc, "flat": 0.5}, "config": {}}))
    assert results_section(path) == "## Evaluation\n\n" + table(
        [
            ["task", "metric", "value"],
            ["arc_easy", "acc", "0.2500 ± 0.0125"],
            ["arc_easy", "em (strict)", "1.0000"],
            ["flat", "", "0.5000"],
        ]
    )


def test_results_in_markdown(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Tasks\n\n```\n# code\n```\n## Japanese\n| a |\n")
    expected = "### Tasks\n\n```\n# code\n```\n#### Japanese\n| a |"
    assert results_section(path) == f"## Evaluation\n\n{expected}"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", "[]", "no object of results"),
        ("a.json", "{}", "holds no results"),
        ("a.txt", "x", r"neither \.md nor \.json"),
        ("a.md", None, "cannot read"),
    ],
)
def test_no_results(name: str, content: str | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"--evaluation: .*{says}"):
        results_section(tmp_path / name)

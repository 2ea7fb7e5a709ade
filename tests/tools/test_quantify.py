"""How distilled a student is, with a judge on this machine."""

import json
import re
from pathlib import Path

import pytest

from tests.assessment.exported import save_exported
from tests.assessment.judge_server import serve_judge
from tests.tools.commands import expect_error, expect_success, start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher`, who says letters, `before`, and `after`, which is the teacher again."""
    found = tmp_path_factory.mktemp("quantify")
    for name, seed in (("teacher", 4), ("before", 1), ("after", 4)):
        save_exported(found / name, seed=seed)
    (found / "text.txt").write_text("Some text. 日本語も。" * 10)
    (found / "prompts.jsonl").write_text('{"prompt": "Hello"}\n{"prompt": "猫"}\n')
    (found / "facts.yaml").write_text("name: Tiny\ndeveloper: Lab\n")
    return found


def test_quantify(folder: Path) -> None:
    pytest.importorskip("rouge_score")
    pytest.importorskip("matplotlib")
    with serve_judge() as server:
        said = expect_success(
            start(
                "quantify.py", "after", "--before", "before", "--teacher", "teacher",
                "--out", "out", "--text", "mixed=text.txt", "--prompts", "prompts.jsonl",
                "--facts", "facts.yaml", "--limit", "2", "--max-new-tokens", "32",
                "--judge-url", server.url, "--judge-model", "overlap", folder=folder,
            )
        )  # fmt: skip
        asked = [request["body"]["messages"][1]["content"] for request in server.requests]
    results = json.loads((folder / "out" / "distillation.json").read_text())
    scores = {
        role: {(s["task"], s["metric"]): s["value"] for s in found}
        for role, found in results["scores"].items()
    }
    same, other = scores["after"], scores["before"]
    for key, equal in (
        (("mixed", "KL(p‖q)"), 0), (("mixed", "JS"), 0), (("mixed", "same top 1"), 1),
        (("mixed", "shared top 10"), 1), (("mixed", "entropy ratio"), 1),
        (("responses", "ROUGE-L"), 1), (("responses", "3-gram overlap"), 1),
        (("judge", "mean"), 5),
    ):  # fmt: skip
        assert same[key] == pytest.approx(equal, abs=1e-6), key
        assert abs(other[key] - equal) > 1e-4, key
    # What the judge was sent is what the models said.
    for entry in results["responses"]:
        said_by = entry["answers"]
        assert said_by["teacher"] == said_by["after"] != said_by["before"]
        for role in ("before", "after"):
            parts = (entry["prompt"], said_by["teacher"], said_by[role])
            assert any(all(f"\n{part}\n" in text for part in parts) for text in asked), parts
    assert set(results["identity"][0]["found"]) == {"teacher", "before", "after"}
    assert re.search(r"^identity, judge +loose contradictions +[01]\.\d", said, re.MULTILINE)
    section = (folder / "out" / "distillation.md").read_text()
    assert section.startswith("## How distilled is it\n\n| task | metric | teacher |")
    assert (folder / "out" / "distillation.png").read_bytes().startswith(b"\x89PNG")


def test_refuses(folder: Path) -> None:
    command = ("quantify.py", "after", "--teacher", "teacher", "--out", "o")
    half = start(*command, "--judge-url", "http://127.0.0.1:9/v1", folder=folder)
    facts = start(*command, "--facts", "prompts.jsonl", folder=folder)
    (folder / "long.txt").write_text("a few words\n" + "long " * 60)
    long = start(*command, "--prompts", "long.txt", folder=folder)
    expect_error(long, "the prompt 'long long .* has 299 tokens, and the teacher 256 places")
    expect_error(half, "--judge-url and --judge-model go together")
    expect_error(facts, r"prompts\.jsonl: ")
    assert not (folder / "o").exists()

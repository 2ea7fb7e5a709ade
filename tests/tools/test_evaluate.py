"""What the student lost and won is shown, written, drawn, and computed once."""

import json
import re
from pathlib import Path

import pytest

from taidscale.models.families import FAMILIES
from tests.assessment.exported import save_exported
from tests.tools.commands import expect_error, expect_success, start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher`, `before` of another vocabulary, `after`, `evals`, `text.jsonl`."""
    found = tmp_path_factory.mktemp("evaluate")
    save_exported(found / "teacher", seed=0)
    save_exported(found / "before", seed=1, extra=("<|more|>",))
    save_exported(found / "after", seed=0)
    (found / "evals").mkdir()
    rows = [{"query": f"q{k}", "choices": ["yes", "no"], "gold": k % 2} for k in range(6)]
    (found / "evals" / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [f"text {k} 日本語" * 3 for k in range(12)]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (found / "text.jsonl").write_text("".join(lines))
    return found


MODELS = ("after", "--before", "before", "--teacher", "teacher", "--out", "out")


def test_evaluate(folder: Path) -> None:
    pytest.importorskip("lm_eval")
    pytest.importorskip("matplotlib")
    arguments = (*MODELS, "--tasks", "quiz", "--data", "evals", "--text", "mixed=text.jsonl")
    said = expect_success(start("evaluate.py", *arguments, folder=folder))
    models = said.splitlines()[:3]
    assert [line.split()[-4] for line in models] == ["teacher,", "before,", "after,"]
    head, *rows = said.splitlines()[3:]
    assert re.split(" {2,}", head) == [
        "task", "metric", "teacher", "student before", "student after", "change",
    ]  # fmt: skip
    assert re.match(r"quiz +acc +0\.\d{3} ± 0\.\d{3} ", rows[0])
    assert re.search(r"^mixed +KL to teacher +- +- +-?0\.000 ± 0\.000 +-$", said, re.MULTILINE)
    assert "student before and teacher have different vocabularies (258 and 257 entries)" in said

    results = json.loads((folder / "out" / "results.json").read_text())
    scores = {
        role: {(s["task"], s["metric"]): s["value"] for s in found}
        for role, found in results["scores"].items()
    }
    assert scores["after"] == {**scores["teacher"], ("mixed", "KL to teacher"): pytest.approx(0)}
    key = ("mixed", "bits/byte")
    changed = {(c["task"], c["metric"]) for c in results["lost"] + results["won"]}
    assert scores["before"][key] != scores["after"][key]
    assert key in changed
    assert results["text"]["after"]["mixed"]["passages"] == 12
    table = (folder / "out" / "scores.md").read_text()
    assert table.startswith("| task | metric | teacher | student before | student after | change |")
    assert (folder / "out" / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_refuses(folder: Path) -> None:
    nothing = start("evaluate.py", *MODELS, folder=folder)
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text('{"model_type": "gpt2"}')
    family = start("evaluate.py", "broken", "--out", "o", "--text", "a=b", folder=folder)
    expect_error(nothing, "give --tasks, --text or both")
    expect_error(family, f"STUDENT: architecture 'gpt2' .* {FAMILIES[0]}")
    assert not (folder / "o").exists()

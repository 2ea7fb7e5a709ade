"""A real endpoint is asked, again where it fails, and never twice for what is known."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from taidscale.assessment.identity import Facts, IdentityRules
from taidscale.assessment.journal import Journal
from taidscale.assessment.judge import Judge, read_scores, read_verdict
from taidscale.assessment.quantification import quantify_identity, quantify_responses
from tests.assessment.judge_server import JudgeServer, serve_judge


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with serve_judge() as state:
        yield state


@pytest.fixture
def judge(server: JudgeServer) -> Judge:
    return Judge(server.url, "judge-1", key="s3cret", first_wait_seconds=0.01)


PROMPTS = ["p0", "p1", "p2"]
RESPONSES = {
    "teacher": ["a b c d", "e f", "g"],
    "before": ["w x y z", "e q", "unjudgeable"],
    "after": ["a b c d", "e f", "h"],
}


def test_scores_are_of_the_texts(server: JudgeServer, judge: Judge, tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    server.fail_first = 2
    part = quantify_responses(PROMPTS, RESPONSES, judge, Journal(tmp_path / "judged.jsonl"))
    values = {
        role: {(s.task, s.metric): s.value for s in scores} for role, scores in part.scores.items()
    }
    assert values["after"]["judge", "style"] == pytest.approx((5 + 5 + 1) / 3)
    assert values["after"]["judge", "content"] == pytest.approx((5 + 5 + 1) / 3)
    # The words shared are 0 of 8 and 1 of 3; the third could not be read.
    assert values["before"]["judge", "style"] == pytest.approx((1 + 2) / 2)
    assert values["before"]["judge", "content"] == 1.0
    assert values["after"]["responses", "ROUGE-L"] == pytest.approx(2 / 3)
    (note,) = part.notes
    assert note.startswith("student before, responses: 1 of 3 answers of the judge")
    judged = next(s for s in part.scores["before"] if s.task == "judge")
    assert judged.each is None, "its items are not those of the student after"

    assert len(server.requests) == 6 + 2
    for request in server.requests:
        assert request["path"] == "/v1/chat/completions"
        assert request["headers"]["Authorization"] == "Bearer s3cret"
        assert request["body"]["model"] == "judge-1"
        assert request["body"]["temperature"] == 0
    assert "s3cret" not in (tmp_path / "judged.jsonl").read_text()


def test_goes_on_after_an_interruption(server: JudgeServer, judge: Judge, tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    path = tmp_path / "judged.jsonl"
    whole = quantify_responses(PROMPTS, RESPONSES, judge, Journal(path))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:30])
    server.requests.clear()
    again = quantify_responses(PROMPTS, RESPONSES, judge, Journal(path))
    assert len(server.requests) == 4
    assert again.scores == whole.scores
    server.requests.clear()
    quantify_responses(PROMPTS, RESPONSES, replace(judge, model="judge-2"), Journal(path))
    assert len(server.requests) == 6


def test_identity(server: JudgeServer, judge: Judge, tmp_path: Path) -> None:
    facts = Facts(name="Tiny", developer="Lab", facts={"country": "Japan"})
    answers = {"after": ["it is Tiny of Lab", "from France", "my name is Claude", "Japan"]}
    part = quantify_identity(
        ["q"] * 4, answers, IdentityRules(facts, [["Claude"]]), judge, Journal(tmp_path / "j")
    )
    values = {(s.task, s.metric): s.value for s in part.scores["after"]}
    assert values["identity", "loose contradictions"] == 0.25
    assert values["identity", "strict contradictions"] == 0.25
    assert values["identity", "says its own name"] == 0.25
    assert values["identity, judge", "loose contradictions"] == 0.5
    assert values["identity, judge", "strict contradictions"] == 0.25


def test_what_cannot_be_judged_ends_it(server: JudgeServer, judge: Judge) -> None:
    server.fail_first = 100
    with pytest.raises(ValueError, match=r"no answer after 5 attempts \(status 503: .*busy"):
        judge.ask("", "")
    assert len(server.requests) == 5
    server.refuse = True
    with pytest.raises(ValueError, match=r"judge-1 refuses, status 401: .*wrong key"):
        judge.ask("", "")
    assert len(server.requests) == 6, "a refusal is final"
    with pytest.raises(ValueError, match="must begin with http"):
        replace(judge, url="127.0.0.1:8000")
    closed = replace(judge, url="http://127.0.0.1:9/v1", attempts=2)
    with pytest.raises(ValueError, match=r"no answer after 2 attempts .*refused"):
        closed.ask("", "")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "4",
        '{"style": 4, "logic": 4}',
        '{"style": 4, "logic": 4, "content": 6}',
        '{"style": 4, "logic": 4, "content": 0}',
        '{"style": 4, "logic": 4, "content": 4.0}',
        '{"style": 4, "logic": 4, "content": true}',
        '{"style": 4, "logic": 4, "content": "4"}',
        '{"style": 4, "logic": 4, "content": 4, "sum": 12}',
        'Sure! {"style": 4, "logic": 4, "content": 4}',
        '{"style": 4, "logic": 4, "content": 4} {"style": 1, "logic": 1, "content": 1}',
    ],
)
def test_other_answers_are_not_scores(answer: str) -> None:
    assert read_scores(answer) is None


def test_answers_that_are() -> None:
    assert read_scores(' {"logic": 2, "style": 1,\n "content": 5}\n') == {
        "style": 1, "logic": 2, "content": 5,
    }  # fmt: skip
    assert read_verdict('```json\n{"contradiction": true, "identity": false}\n```') == {
        "contradiction": True, "identity": False,
    }  # fmt: skip
    assert read_verdict('{"contradiction": 1, "identity": false}') is None

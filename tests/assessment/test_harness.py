"""The harness's scores are those of a plain loop over log-likelihoods."""

import sys
from pathlib import Path

import pytest
import torch

from taidscale.assessment.harness import HarnessSettings, harness_version, open_harness, run_task
from taidscale.assessment.local_tasks import LocalTask, find_local_task
from taidscale.assessment.subjects import load_model
from tests.assessment.exported import ON_CPU, subject_of

SETTINGS = HarnessSettings(batch_size=4, limit=None, num_fewshot=None, chat_template=False, seed=0)


def test_missing_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ValueError, match=r"pip install 'taidscale\[evaluate\]'"):
        harness_version()


def test_accuracy_equals_a_plain_loop(material: Path) -> None:
    pytest.importorskip("lm_eval")
    subject = subject_of("after", material / "models" / "stories260K-llama-hf")
    model = load_model(subject, ON_CPU)
    hf = subject.tokenizer.hf
    assert hf is not None

    @torch.no_grad()
    def log_likelihood(prompt: str, ending: str) -> tuple[float, bool]:
        before = hf(prompt).input_ids
        ids = torch.tensor([hf(prompt + ending).input_ids])
        logits = model(ids).logits[0, len(before) - 1 : -1]
        end = ids[0, len(before) :]
        log_p = logits.log_softmax(-1).gather(1, end[:, None]).sum()
        return float(log_p), bool((logits.argmax(-1) == end).all())

    arc = find_local_task("arc_easy", material / "evals", 10)
    assert arc is not None
    right = []
    for row in arc.rows:
        found = [log_likelihood(row["prompt"], f" {choice}")[0] for choice in row["choices"]]
        normed = [x / len(choice) for x, choice in zip(found, row["choices"], strict=True)]
        right.append(
            [max(range(len(x)), key=x.__getitem__) == row["gold"] for x in (found, normed)]
        )
    acc, acc_norm = run_task(model, subject.tokenizer, arc, open_harness([], []), SETTINGS)
    assert (acc.metric, acc_norm.metric) == ("acc", "acc_norm")
    assert acc.each == [float(a) for a, _ in right]
    assert acc_norm.each == [float(b) for _, b in right]
    assert acc.value == pytest.approx(sum(acc.each) / 10)

    # Endings that this model does say, and one that it does not.
    base = find_local_task("lambada", material / "evals", 1)
    assert base is not None
    rows = [
        ("Once upon a", "time"),
        ("Once upon a time, there was a little", "girl"),
        ("A", "zebra"),
    ]
    last = LocalTask("last", base.wording, tuple({"prompt": p, "ending": e} for p, e in rows))
    (score,) = run_task(model, subject.tokenizer, last, open_harness([], []), SETTINGS)
    assert score.each == [float(log_likelihood(p, f" {e}")[1]) for p, e in rows]
    assert 0 < score.value < 1

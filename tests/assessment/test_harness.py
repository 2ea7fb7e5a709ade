"""The harness's scores are those of a plain loop over log-likelihoods."""

import sys
from pathlib import Path

import pytest
import torch

from taidscale.assessment.comparison import score_tasks
from taidscale.assessment.harness import HarnessSettings, harness_version, open_harness, run_task
from taidscale.assessment.journal import Journal
from taidscale.assessment.local_tasks import LocalTask, find_local_task
from taidscale.assessment.subjects import load_model
from tests.assessment.exported import ON_CPU, models_on_cpu, subject_of

SETTINGS = HarnessSettings(batch_size=4, limit=None, num_fewshot=None, chat_template=False, seed=0)
STARTS = ("Once upon a", "Once upon a time, there was a little", "If the", "This is", "Return the")


def test_missing_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ValueError, match=r"pip install 'taidscale\[evaluate\]'"):
        harness_version()


def test_accuracy_equals_a_plain_loop(material: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    subject = subject_of("after", material / "models" / "stories260K-llama-hf")
    model = load_model(subject, ON_CPU)
    hf = subject.tokenizer.hf
    assert hf is not None

    def likeliest_word(prompt: str) -> str:
        ids = torch.tensor([hf(prompt).input_ids])
        said = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        return str(hf.decode(said, skip_special_tokens=True).split()[0])

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
        right.append([x.index(max(x)) == row["gold"] for x in (found, normed)])
    acc, acc_norm = run_task(model, subject.tokenizer, arc, open_harness([], []), SETTINGS)
    assert (acc.metric, acc_norm.metric) == ("acc", "acc_norm")
    assert acc.each == [float(a) for a, _ in right]
    assert acc_norm.each == [float(b) for _, b in right]
    assert acc.value == pytest.approx(sum(acc.each) / 10)

    # Endings that this model does say, and one that it does not.
    base = find_local_task("lambada", material / "evals", 1)
    assert base is not None
    rows = [(start, likeliest_word(start)) for start in STARTS]
    assert all(word for _, word in rows)
    rows.append(("A", "zebra"))
    last = LocalTask("last", base.wording, tuple({"prompt": p, "ending": e} for p, e in rows))
    journal = Journal(tmp_path / "finished.jsonl")
    models = models_on_cpu()
    scores = score_tasks([subject], [last], models, journal, SETTINGS)
    (score,) = scores["after"]
    assert score.each == [float(log_likelihood(p, f" {e}")[1]) for p, e in rows]
    assert 0 < score.value < 1

    # Other rows are another task; the same ones are not scored again.
    again = models_on_cpu()
    assert score_tasks([subject], [last], again, journal, SETTINGS) == scores
    assert not again.was_used
    other = LocalTask("last", base.wording, last.rows[:2])
    score_tasks([subject], [other], again, journal, SETTINGS)
    assert again.was_used

"""Domains are scored once for each model, and again where something has changed."""

import shutil
from pathlib import Path

import pytest
import torch

from taidscale.assessment.comparison import TextSettings, domain_scores, score_domains
from taidscale.assessment.held_out_text import Domain
from taidscale.assessment.journal import Journal
from taidscale.assessment.score_report import vocabulary_notes
from taidscale.assessment.subjects import ROLES, enough_memory, find_subject
from tests.assessment.exported import models_on_cpu, save_exported, subject_of
from tests.tiny_models import add_tokens

DOMAINS = [Domain("a", ("first passage", "the second one")), Domain("b", ("日本語",))]
SETTINGS = TextSettings(batch_size=2, window_tokens=2048, top_k=3)


def test_goes_on_and_notices_another_model(tmp_path: Path) -> None:
    for name, seed in (("teacher", 0), ("after", 1), ("other", 2)):
        save_exported(tmp_path / name, seed=seed)
    path = tmp_path / "finished.jsonl"
    subjects = [subject_of(role, tmp_path / role) for role in ("teacher", "after")]
    figures = score_domains(subjects, DOMAINS, models_on_cpu(), Journal(path), SETTINGS)
    assert "forward_kl" not in figures["teacher"]["a"].sums
    assert figures["after"]["a"].mean("forward_kl") > 0.01
    assert figures["after"]["b"].sums["tokens"].tolist() == [9.0]

    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))  # ended before the last
    models = models_on_cpu()
    again = score_domains(subjects, DOMAINS, models, Journal(path), SETTINGS)
    assert models.was_used
    scores = [domain_scores("b", found["after"]["b"]) for found in (figures, again)]
    assert scores[0] == scores[1]
    models = models_on_cpu()
    score_domains(subjects, DOMAINS, models, Journal(path), SETTINGS)
    assert not models.was_used

    # Other passages under the same name.
    longer = [Domain("a", (*DOMAINS[0].passages, "a third"))]
    more = score_domains(subjects, longer, models, Journal(path), SETTINGS)
    assert len(more["after"]["a"].sums["nats"]) == 3

    # Another export in the same folder.
    shutil.copytree(tmp_path / "other", tmp_path / "after", dirs_exist_ok=True)
    renewed = [subjects[0], subject_of("after", tmp_path / "after")]
    changed = score_domains(renewed, DOMAINS, models, Journal(path), SETTINGS)
    assert changed["after"]["a"].mean("nats") != figures["after"]["a"].mean("nats")
    assert changed["teacher"]["a"].mean("nats") == figures["teacher"]["a"].mean("nats")


def test_another_vocabulary_has_no_kl(tmp_path: Path) -> None:
    save_exported(tmp_path / "teacher", seed=0)
    save_exported(tmp_path / "after", seed=0, extra=("<|more|>",))
    subjects = [subject_of(role, tmp_path / role) for role in ("teacher", "after")]
    journal = Journal(tmp_path / "finished.jsonl")
    figures = score_domains(subjects, DOMAINS, models_on_cpu(), journal, SETTINGS)
    scores = domain_scores("a", figures["after"]["a"])
    assert [score.metric for score in scores] == ["bits/byte", "nats/token"]
    # The same weights with one more entry are less sure.
    assert scores[0].value > domain_scores("a", figures["teacher"]["a"])[0].value


def test_only_shared_ids_are_compared(tmp_path: Path) -> None:
    for name, seed in (("teacher", 0), ("before", 1), ("after", 1)):
        save_exported(tmp_path / name, seed=seed)
    add_tokens(tmp_path / "after", ("<think>", "</think>"))  # else it is `before`
    subjects = [subject_of(role, tmp_path / role) for role in ROLES]
    journal = Journal(tmp_path / "finished.jsonl")
    figures = score_domains(subjects, DOMAINS, models_on_cpu(), journal, SETTINGS)
    for domain in DOMAINS:
        before, after = (figures[role][domain.name] for role in ("before", "after"))
        assert before.sums.keys() == after.sums.keys()
        for name in before.sums.keys() - {"nats"}:
            assert before.sums[name].tolist() == after.sums[name].tolist(), name
        assert after.mean("nats") > before.mean("nats")  # two more entries take their share
    (note,) = vocabulary_notes(subjects)
    assert note.startswith("student after and teacher have different vocabularies (259 and 257")
    assert note.endswith("is over the first 257 ids, which both share")
    told = [Domain("c", ("a text", "I <think> so"))]
    says = (
        r"^c: passage 2 holds '<think>' \(id 257\), and the teacher shares only the first 257 ids"
    )
    with pytest.raises(ValueError, match=says):
        score_domains(subjects, told, models_on_cpu(), journal, SETTINGS)


def test_refuses_models(tmp_path: Path) -> None:
    tokens = tuple(f"<|{k}|>" for k in range(43))
    large = save_exported(tmp_path / "large", seed=0, extra=tokens)
    with pytest.raises(ValueError, match=r"STUDENT: the head of .* 264 rows .* 300 entries"):
        find_subject("after", str(large), "STUDENT")
    (large / "config.json").unlink()
    with pytest.raises(ValueError, match=r"STUDENT: .* holds no config\.json"):
        find_subject("after", str(large), "STUDENT")
    with pytest.raises(ValueError, match=r"--before: there is no folder '.*nowhere'"):
        find_subject("before", str(tmp_path / "nowhere"), "--before")


def test_a_full_device_is_no_traceback() -> None:
    says = r"^CUDA is full; use a smaller --batch-size"
    with pytest.raises(ValueError, match=says), enough_memory():
        raise torch.OutOfMemoryError("CUDA is full. Tried to allocate 2 GiB")


def test_windows_are_no_longer_than_the_samples(tmp_path: Path) -> None:
    subjects = [subject_of("after", save_exported(tmp_path / "after", seed=0))]
    text = ("a passage of some length",)
    by_length = []
    for domain in (Domain("a", text, 8), Domain("a", text)):
        journal = Journal(tmp_path / f"{domain.seq_len}.jsonl")
        found = score_domains(subjects, [domain], models_on_cpu(), journal, SETTINGS)
        by_length.append(found["after"]["a"].mean("nats"))
    short = TextSettings(SETTINGS.batch_size, 8, SETTINGS.top_k)
    journal = Journal(tmp_path / "short.jsonl")
    found = score_domains(subjects, [Domain("a", text)], models_on_cpu(), journal, short)
    assert by_length[0] == found["after"]["a"].mean("nats") != by_length[1]

"""Figures of predictions equal what float64 and a plain loop over whole models say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from taidscale.assessment import distributions
from taidscale.assessment.distributions import compare_logits, cut_windows, score_passages
from taidscale.assessment.subjects import load_model
from tests.assessment.exported import ON_CPU, save_exported, subject_of

PASSAGES = ["Once upon a time there was", "a", "日本語の文です。", "x" * 150]
VOCAB_SIZE = 257


def test_logits_equal_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(7, 50, generator=generator) * 4 for _ in range(2))
    labels = torch.randint(50, (7,), generator=generator)
    figures = compare_logits(student, teacher, labels, top_k=5)

    def softmax(logits: torch.Tensor) -> np.ndarray:
        e = np.exp(logits.double().numpy() - logits.double().numpy().max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    q, p = softmax(student), softmax(teacher)
    m = (p + q) / 2
    rows = np.arange(7)
    top = [np.argsort(-x, axis=1) for x in (p, q)]
    expected = {
        "tokens": np.ones(7),
        "nats": -np.log(q[rows, labels]),
        "entropy": -(q * np.log(q)).sum(1),
        "teacher_nats": -np.log(p[rows, labels]),
        "teacher_entropy": -(p * np.log(p)).sum(1),
        "forward_kl": (p * np.log(p / q)).sum(1),
        "reverse_kl": (q * np.log(q / p)).sum(1),
        "js": ((p * np.log(p / m)).sum(1) + (q * np.log(q / m)).sum(1)) / 2,
        "top1_agreement": (top[0][:, 0] == top[1][:, 0]).astype(float),
        "topk_agreement": np.array(
            [len({*a[:5]} & {*b[:5]}) / 5 for a, b in zip(*top, strict=True)]
        ),
    }
    assert figures.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(figures[name].numpy(), value, rtol=2e-5, err_msg=name)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_passages_equal_a_plain_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(distributions, "CHUNK_ELEMENTS", 10 * VOCAB_SIZE)
    cap = {"final_logit_softcapping": 3.0} if family == "gemma2" else {}
    folders = [save_exported(tmp_path / n, seed=k, family=family) for k, n in enumerate("ab")]
    subjects = [subject_of("teacher", folders[0]), subject_of("after", folders[1])]
    teacher, student = (load_model(subject, ON_CPU) for subject in subjects)
    for model in (teacher, student):
        model.config.update(cap)
    windows, num_bytes = cut_windows(PASSAGES, subjects[0].tokenizer, 40)
    assert num_bytes == [len(p.encode()) for p in PASSAGES]
    sums = {
        size: score_passages(
            student, teacher, windows,
            vocab_size=VOCAB_SIZE, batch_size=size, top_k=3, title="",
        )
        for size in (1, 4)
    }  # fmt: skip
    plain = [AutoModelForCausalLM.from_pretrained(folder).double().eval() for folder in folders]
    for model in plain:
        model.config.update(cap)
    for number, passage in enumerate(PASSAGES):
        ids = [256, *subjects[0].tokenizer.encode_batch([passage])[0]]
        assert sums[1]["tokens"][number] == len(ids) - 1 == len(passage.encode())
        nats = kl = 0.0
        for start in range(0, len(ids) - 1, 40):
            part = torch.tensor([ids[start : start + 41]])
            with torch.no_grad():
                log_p, log_q = (
                    model(part[:, :-1]).logits[0, :, :VOCAB_SIZE].double().log_softmax(-1)
                    for model in plain
                )
            nats -= float(log_q.gather(1, part[0, 1:, None]).sum())
            kl += float((log_p.exp() * (log_p - log_q)).sum())
        for found in sums.values():
            assert found["nats"][number] == pytest.approx(nats, rel=1e-5)
            assert found["forward_kl"][number] == pytest.approx(kl, rel=1e-5)

"""Teacher, student before and student after: all tasks and domains, on from where it was ended."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedModel

from taidscale.assessment.distributions import (
    Sums,
    Window,
    context_length,
    cut_windows,
    score_passages,
)
from taidscale.assessment.harness import (
    HarnessSettings,
    harness_version,
    open_harness,
    run_task,
)
from taidscale.assessment.held_out_text import Domain
from taidscale.assessment.journal import Journal
from taidscale.assessment.local_tasks import LocalTask
from taidscale.assessment.scores import Score, mean_score
from taidscale.assessment.subjects import (
    TITLES,
    Placement,
    Role,
    Subject,
    load_model,
)
from taidscale.models.vocabulary import shared_prefix

BITS_PER_BYTE, NATS_PER_TOKEN, TEACHER_KL = "bits/byte", "nats/token", "KL to teacher"
FIRST_OF_TEXT = (BITS_PER_BYTE, NATS_PER_TOKEN, TEACHER_KL)


@dataclass(frozen=True)
class TextSettings:
    """How passages are scored."""

    batch_size: int
    window_tokens: int
    """That are scored with one context at most; fewer where a model has fewer places."""
    top_k: int
    """Of the shared likeliest tokens."""


@dataclass
class Models:
    """Those that are loaded: each when it is first needed, a student until `release`."""

    placement: Placement
    _loaded: dict[Role, PreTrainedModel] = field(default_factory=dict)
    was_used: bool = False
    """Whether anything was loaded at all, and not known already."""

    def get(self, subject: Subject) -> PreTrainedModel:
        """The model of a subject."""
        if subject.role not in self._loaded:
            self._loaded[subject.role] = load_model(subject, self.placement)
            self.was_used = True
        return self._loaded[subject.role]

    def release(self, subject: Subject) -> None:
        """Free its memory; the teacher stays, to be compared with."""
        if subject.role != "teacher":
            self._loaded.pop(subject.role, None)

    def key(self, subject: Subject) -> dict[str, Any]:
        """What a result depends on, as far as the model goes."""
        device = self.placement.device.partition(":")[0]
        return {"model": subject.identity, "dtype": self.placement.dtype, "device": device}


def score_tasks(
    subjects: Sequence[Subject],
    tasks: Sequence[LocalTask | str],
    models: Models,
    journal: Journal,
    settings: HarnessSettings,
    index: Any = None,
) -> dict[Role, list[Score]]:
    """Scores of all models on all tasks.

    Args:
        subjects: The models.
        tasks: Those in files here, and names of the harness's own.
        models: Where they are loaded.
        journal: Of what is finished.
        settings: How the harness runs.
        index: Of the harness's tasks, if it was opened.

    Raises:
        ValueError: The harness is not installed, or a task's data cannot be had.
    """
    version = harness_version() if tasks else ""
    scores: dict[Role, list[Score]] = {subject.role: [] for subject in subjects}
    for subject in subjects:
        for task in tasks:
            key = models.key(subject) | {
                "harness": version,
                "chat_template": settings.chat_template,
                "seed": settings.seed,
            }
            if isinstance(task, LocalTask):
                key |= {"task": task.name, "rows": task.digest, "wording": task.wording}
            else:
                key |= {"task": task, "limit": settings.limit, "num_fewshot": settings.num_fewshot}
            if (found := journal.get(key)) is None:
                index = index or open_harness([], [])
                model = models.get(subject)
                name = task.name if isinstance(task, LocalTask) else task
                tqdm.write(f"{TITLES[subject.role]}, {name}", file=sys.stderr)
                run = run_task(model, subject.tokenizer, task, index, settings)
                journal.put(key, found := [score.model_dump() for score in run])
            scores[subject.role] += [Score(**entry) for entry in found]
        models.release(subject)
    return scores


@dataclass(frozen=True)
class DomainFigures:
    """What was summed over the passages of a domain for one model."""

    sums: Sums
    """[passages] each."""
    num_bytes: list[int]
    """Of each passage."""

    def mean(self, name: str) -> float:
        """Of all tokens."""
        return float(self.sums[name].sum() / self.sums["tokens"].sum())


def score_domains(
    subjects: Sequence[Subject],
    domains: Sequence[Domain],
    models: Models,
    journal: Journal,
    settings: TextSettings,
) -> dict[Role, dict[str, DomainFigures]]:
    """Figures of all models on all domains.

    Of students of the teacher's vocabulary, or of its leading ids, also how far they are from it.

    Args:
        subjects: The models.
        domains: Their text.
        models: Where they are loaded.
        journal: Of what is finished.
        settings: How passages are scored.

    Raises:
        ValueError: A text holds a token that the teacher does not share.
    """
    teacher = next((subject for subject in subjects if subject.role == "teacher"), None)
    figures: dict[Role, dict[str, DomainFigures]] = {subject.role: {} for subject in subjects}
    for subject in subjects:
        other = teacher if shared_ids(subject, teacher) is not None else None
        for domain in domains:
            key = models.key(subject) | {
                "teacher": None if other is None else other.identity,
                "text": domain.digest,
                "window_tokens": min(settings.window_tokens, domain.seq_len or sys.maxsize),
                "top_k": settings.top_k,
            }
            if (found := journal.get(key)) is None:
                found = _score_domain(subject, other, domain, models, settings)
                journal.put(key, found)
            figures[subject.role][domain.name] = DomainFigures(
                {name: np.array(values) for name, values in found["sums"].items()},
                found["num_bytes"],
            )
        models.release(subject)
    return figures


def shared_ids(subject: Subject, teacher: Subject | None) -> int | None:
    """How many leading ids mean the same to a student and the teacher.

    All of them, or all but added and reserved tokens; None where the vocabularies differ in others,
    or where there is nothing to compare with.
    """
    if teacher is None or subject.role == "teacher":
        return None
    if subject.vocabulary == teacher.vocabulary:
        return subject.tokenizer.size
    try:
        return shared_prefix(teacher.tokenizer, subject.tokenizer)
    except ValueError:
        return None


def _score_domain(
    subject: Subject,
    teacher: Subject | None,
    domain: Domain,
    models: Models,
    settings: TextSettings,
) -> dict[str, Any]:
    model = models.get(subject)
    other = None if teacher is None else models.get(teacher)
    # No longer than the samples, which is what a student was trained on.
    length = min(settings.window_tokens, domain.seq_len or sys.maxsize)
    length = context_length(model, length)
    if other is not None:
        length = context_length(other, length)
    windows, num_bytes = cut_windows(domain.passages, subject.tokenizer, length)
    shared = shared_ids(subject, teacher)
    if shared is not None:
        _check_ids(windows, shared, subject, domain.name)
    sums = score_passages(
        model,
        other,
        windows,
        vocab_size=subject.tokenizer.size,
        shared_size=shared,
        batch_size=settings.batch_size,
        top_k=settings.top_k,
        title=f"{TITLES[subject.role]}, {domain.name}",
    )
    return {
        "sums": {name: values.tolist() for name, values in sums.items()},
        "num_bytes": num_bytes,
    }


def _check_ids(windows: Sequence[Window], shared: int, subject: Subject, domain: str) -> None:
    for window in windows:
        if max(window.ids) >= shared:
            token = subject.tokenizer.decode([max(window.ids)])
            raise ValueError(
                f"{domain}: passage {window.passage + 1:,} holds {token!r} (id {max(window.ids)}), "
                f"and the teacher shares only the first {shared:,} ids of {subject.folder}; leave "
                "such passages out, or evaluate without --teacher"
            )


def domain_scores(name: str, figures: DomainFigures) -> list[Score]:
    """The figures that anyone compares first."""
    sums, num_bytes = figures.sums, np.array(figures.num_bytes, float)
    scores = [
        mean_score(name, BITS_PER_BYTE, sums["nats"] / math.log(2), num_bytes),
        mean_score(name, NATS_PER_TOKEN, sums["nats"], sums["tokens"]),
    ]
    if "forward_kl" in sums:
        scores.append(mean_score(name, TEACHER_KL, sums["forward_kl"], sums["tokens"]))
    return scores

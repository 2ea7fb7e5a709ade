"""What an evaluation leaves: results, a table for a model card, a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taidscale.assessment.comparison import (
    BITS_PER_BYTE,
    NATS_PER_TOKEN,
    TEACHER_KL,
    DomainFigures,
    shared_ids,
)
from taidscale.assessment.draw_bars import Panel, draw_bars
from taidscale.assessment.scores import Change, Score, changes
from taidscale.assessment.subjects import TITLES, Role, Subject
from taidscale.assessment.tables import as_markdown, score_table
from taidscale.durable import replace_file

RESULTS, TABLE, PICTURE = "results.json", "scores.md", "scores.png"


def find_changes(
    scores: Mapping[Role, Sequence[Score]], min_errors: float
) -> tuple[list[Change], list[Change]]:
    """What the student lost, and what it won; nats per token say the same as bits per byte."""
    kept = {
        role: [score for score in found if score.metric != NATS_PER_TOKEN]
        for role, found in scores.items()
    }
    found = changes(kept.get("before", []), kept.get("after", []), min_errors)
    return [c for c in found if c.gain < 0], [c for c in reversed(found) if c.gain > 0]


def vocabulary_notes(subjects: Sequence[Subject]) -> list[str]:
    """Which figures are missing because of a vocabulary, and which cannot be compared."""
    teacher = next((subject for subject in subjects if subject.role == "teacher"), None)
    notes = []
    for subject in subjects:
        if teacher is None or subject is teacher or subject.vocabulary == teacher.vocabulary:
            continue
        said = (
            f"{TITLES[subject.role]} and teacher have different vocabularies "
            f"({subject.tokenizer.size:,} and {teacher.tokenizer.size:,} entries): "
        )
        shared = shared_ids(subject, teacher)
        notes.append(
            f"{said}there is no KL between them, and only bits/byte can be compared, not nats/token"
            if shared is None
            else f"{said}what compares them is over the first {shared:,} ids, which both share"
        )
    return notes


def write_scores(
    out: Path,
    subjects: Sequence[Subject],
    scores: Mapping[Role, Sequence[Score]],
    figures: Mapping[Role, Mapping[str, DomainFigures]],
    settings: Mapping[str, Any],
    min_errors: float,
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write everything, each file whole or not at all.

    Args:
        out: Folder.
        subjects: The models.
        scores: Of each model.
        figures: Of each model and domain.
        settings: To be named with the scores.
        min_errors: Standard errors beyond which a difference is named.
        notes: What must be said with them.

    Returns:
        The files.
    """
    lost, won = find_changes(scores, min_errors)
    content = {
        "models": {
            subject.role: {
                "folder": str(subject.folder),
                "identity": subject.identity,
                "vocabulary": subject.tokenizer.size,
                "parameters": subject.num_parameters,
            }
            for subject in subjects
        },
        "settings": dict(settings),
        "scores": {
            role: [score.model_dump(exclude={"each", "weights"}) for score in found]
            for role, found in scores.items()
        },
        "text": {
            role: {
                name: {
                    "passages": len(found.num_bytes),
                    "bytes": sum(found.num_bytes),
                    "tokens": int(found.sums["tokens"].sum()),
                }
                for name, found in domains.items()
            }
            for role, domains in figures.items()
        },
        "lost": [change._asdict() | {"line": str(change)} for change in lost],
        "won": [change._asdict() | {"line": str(change)} for change in won],
        "notes": list(notes),
    }
    replace_file(out / RESULTS, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    replace_file(out / TABLE, _card(scores, lost, notes, min_errors))
    marked = {(change.task, change.metric): "lost" for change in lost}
    draw_bars(_panels(scores), scores, out / PICTURE, marked)
    return [out / name for name in (RESULTS, TABLE, PICTURE) if (out / name).exists()]


def _panels(scores: Mapping[Role, Sequence[Score]]) -> list[Panel]:
    """Tasks, where a figure is between 0 and 1; and each figure of text apart."""
    everything = [score for found in scores.values() for score in found]
    domains = {score.task for score in everything if score.metric == BITS_PER_BYTE}
    shares = {
        (score.task, score.metric): f"{score.task}\n{score.metric}"
        for score in everything
        if score.task not in domains and 0 <= score.value <= 1
    }

    def of_text(metric: str) -> dict[tuple[str, str], str]:
        return {(s.task, metric): s.task for s in everything if s.metric == metric}

    return [
        Panel("tasks: higher is better", shares, 1.0),
        Panel(f"{BITS_PER_BYTE}: lower is better", of_text(BITS_PER_BYTE)),
        Panel(f"{TEACHER_KL} [nats]: lower is better", of_text(TEACHER_KL)),
    ]


def _card(
    scores: Mapping[Role, Sequence[Score]],
    lost: Sequence[Change],
    notes: Sequence[str],
    min_errors: float,
) -> str:
    lines = [as_markdown(score_table(scores, min_errors))]
    lines.append(
        "± is one standard error; that of a change is of the differences of single items. "
        f"▼: worse than before by more than {min_errors:g} of them.\n"
    )
    lines += [f"- {change}\n" for change in lost]
    lines += [f"- {note}\n" for note in notes]
    return "\n".join(lines[:2]) + "\n" + "".join(lines[2:])

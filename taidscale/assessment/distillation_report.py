"""What a quantification leaves: a section for a report, JSON, a picture."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taidscale.assessment.draw_bars import Panel, draw_bars
from taidscale.assessment.quantification import (
    ENTROPY_RATIO,
    IDENTITY,
    JENSEN_SHANNON,
    JUDGED,
    JUDGED_IDENTITY,
    KL_FORWARD,
    KL_REVERSE,
    LOOSE,
    OWN_NAME,
    RESPONSES,
    STRICT,
    IdentityPart,
)
from taidscale.assessment.scores import Score
from taidscale.assessment.subjects import ROLES, TITLES, Role, Subject
from taidscale.assessment.tables import as_markdown, score_table
from taidscale.durable import replace_file

RESULTS, SECTION, PICTURE = "distillation.json", "distillation.md", "distillation.png"
NUM_EXAMPLES, EXAMPLE_CHARACTERS = 3, 300
EXPLAINED = f"""\
p is the teacher and q the student; {KL_FORWARD}, {KL_REVERSE} and {JENSEN_SHANNON} (at most 0.693)
are nats per token of held-out text; "{ENTROPY_RATIO}" is the student's entropy over the teacher's,
1 where it is as sure. ROUGE-L and 3-gram overlap (0 to 1) and the judge's scores (1 to 5) compare
the responses with the teacher's. Contradictions are the part of answers to questions about itself
that contradict the facts about the student (loose), or in which the model takes itself for another
one (strict); the prompts are a fixed list, so these are lower bounds. After Lee et al.,
[arXiv:2501.12619](https://arxiv.org/abs/2501.12619). ± is one standard error.
"""


@dataclass(frozen=True)
class Texts:
    """Prompts, and what each model said."""

    prompts: Sequence[str]
    answers: Mapping[Role, Sequence[str]]


def merge_scores(parts: Sequence[Mapping[Role, Sequence[Score]]]) -> dict[Role, list[Score]]:
    """Of each model, in the usual order, what all parts found."""
    found = {role: [s for part in parts for s in part.get(role, [])] for role in ROLES}
    return {role: scores for role, scores in found.items() if scores}


def write_distillation(
    out: Path,
    subjects: Sequence[Subject],
    scores: Mapping[Role, Sequence[Score]],
    notes: Sequence[str],
    responses: Texts,
    identity: Texts | None,
    findings: IdentityPart,
    settings: Mapping[str, Any],
) -> list[Path]:
    """Write everything, each file whole or not at all.

    Args:
        out: Folder.
        subjects: The models.
        scores: Of each model; see `merge_scores`.
        notes: What must be said with them.
        responses: That were compared.
        identity: Answers about the model, if they were asked for.
        findings: In these.
        settings: To be named with the scores.

    Returns:
        The files.
    """
    asked = [] if identity is None else _by_prompt(identity)
    for role, found in findings.findings.items():
        for entry, finding in zip(asked, found, strict=True):
            entry["found"][role] = {
                "loose": finding.loose,
                "strict": finding.strict,
                "names_itself": finding.names_itself,
            }
    content = {
        "models": {
            subject.role: {"folder": str(subject.folder), "identity": subject.identity}
            for subject in subjects
        },
        "settings": dict(settings),
        "scores": {
            role: [score.model_dump(exclude={"each", "weights"}) for score in found]
            for role, found in scores.items()
        },
        "notes": list(notes),
        "responses": _by_prompt(responses),
        "identity": asked,
    }
    replace_file(out / RESULTS, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    section = [
        "## How distilled is it\n",
        as_markdown(score_table(scores, float("inf"))),
        EXPLAINED,
        *[f"- {note}\n" for note in notes],
        *_examples(responses),
        *([] if identity is None else _contradictions(identity, findings)),
    ]
    replace_file(out / SECTION, "\n".join(section))
    draw_bars(_panels(scores), scores, out / PICTURE)
    return [out / name for name in (RESULTS, SECTION, PICTURE) if (out / name).exists()]


def _by_prompt(texts: Texts) -> list[dict[str, Any]]:
    return [
        {
            "prompt": prompt,
            "answers": {role: said[k] for role, said in texts.answers.items()},
            "found": {},
        }
        for k, prompt in enumerate(texts.prompts)
    ]


def _examples(responses: Texts) -> list[str]:
    lines = ["### Responses\n"]
    for k, prompt in enumerate(responses.prompts[:NUM_EXAMPLES]):
        said = {role: answers[k] for role, answers in responses.answers.items()}
        lines += [f"> {_shorten(prompt)}\n"]
        lines += [f"- {TITLES[role]}: {_shorten(answer)}" for role, answer in said.items()]
        lines.append("")
    return lines


def _contradictions(identity: Texts, found: IdentityPart) -> list[str]:
    """Those of the student after, which its makers want to read."""
    answers, findings = identity.answers["after"], found.findings["after"]
    lines = ["### Contradictions of the student\n"]
    for prompt, answer, finding in zip(identity.prompts, answers, findings, strict=True):
        if finding.loose:
            kind = "strict" if finding.strict else "loose"
            names = ", ".join(finding.strict or finding.loose)
            lines.append(f'- {kind}, {names}: "{_shorten(prompt)}" -> "{_shorten(answer)}"')
    return [*lines, ""] if len(lines) > 1 else [lines[0], "None by rules.\n"]


def _shorten(text: str) -> str:
    one_line = " ".join(text.split())
    cut = len(one_line) > EXAMPLE_CHARACTERS
    return one_line[:EXAMPLE_CHARACTERS] + " ..." * cut if one_line else "(nothing)"


def _panels(scores: Mapping[Role, Sequence[Score]]) -> list[Panel]:
    keys = list(dict.fromkeys((s.task, s.metric) for found in scores.values() for s in found))
    distances = (KL_FORWARD, KL_REVERSE, JENSEN_SHANNON)
    about_text = (RESPONSES, JUDGED, IDENTITY, JUDGED_IDENTITY)

    def labels(wanted: Callable[[str, str], bool]) -> dict[tuple[str, str], str]:
        return {
            key: f"{key[1]}\n{key[0]}".replace(" contr", "\ncontr") for key in keys if wanted(*key)
        }

    def is_share(task: str, metric: str) -> bool:
        other = (*distances, ENTROPY_RATIO)
        return task == RESPONSES or (task not in about_text and metric not in other)

    identity = (LOOSE, STRICT, OWN_NAME)
    return [
        Panel("distances [nats]: lower is closer", labels(lambda _, m: m in distances)),
        Panel("likeness: 1 is equal", labels(is_share), 1.0),
        Panel("entropy ratio: 1 is equal", labels(lambda _, m: m == ENTROPY_RATIO)),
        Panel("judge, 1 to 5: higher is closer", labels(lambda t, _: t == JUDGED), 5.0),
        Panel("part of answers about itself", labels(lambda _, m: m in identity), 1.0),
    ]

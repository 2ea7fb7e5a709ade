"""How distilled of its teacher is a student: predictions, responses, identity.

The two parts over text follow Lee et al. (arXiv:2501.12619): the similarity of responses, which a
judge scores from 1 to 5 for style, logic and content, and the consistency of the identity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from taidscale.assessment.comparison import DomainFigures
from taidscale.assessment.identity import Finding, IdentityRules
from taidscale.assessment.journal import Journal
from taidscale.assessment.judge import (
    ASPECTS,
    Judge,
    ask_all,
    identity_question,
    read_scores,
    read_verdict,
    similarity_question,
)
from taidscale.assessment.scores import Score, mean_score
from taidscale.assessment.similarity import RougeL, ngram_overlap
from taidscale.assessment.subjects import TITLES, Role

KL_FORWARD, KL_REVERSE, JENSEN_SHANNON = "KL(p‖q)", "KL(q‖p)", "JS"
TOP_1, ENTROPY_RATIO = "same top 1", "entropy ratio"
ROUGE_L, OVERLAP = "ROUGE-L", "3-gram overlap"
RESPONSES, JUDGED, IDENTITY, JUDGED_IDENTITY = "responses", "judge", "identity", "identity, judge"
LOOSE, STRICT, OWN_NAME = "loose contradictions", "strict contradictions", "says its own name"


@dataclass
class Part:
    """Scores of some models, and what must be said with them."""

    scores: dict[Role, list[Score]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def quantify_predictions(figures: Mapping[Role, Mapping[str, DomainFigures]], top_k: int) -> Part:
    """Distances between the predictions of student q and teacher p on the same tokens.

    Args:
        figures: Of each domain; those without a teacher are left out.
        top_k: That the figures were made with.
    """
    part = Part()
    names = {
        KL_FORWARD: ("forward_kl", "tokens", False),
        KL_REVERSE: ("reverse_kl", "tokens", False),
        JENSEN_SHANNON: ("js", "tokens", False),
        TOP_1: ("top1_agreement", "tokens", True),
        f"shared top {top_k}": ("topk_agreement", "tokens", True),
        ENTROPY_RATIO: ("entropy", "teacher_entropy", True),
    }
    for role, domains in figures.items():
        for domain, found in domains.items():
            if "forward_kl" not in found.sums:
                continue
            part.scores.setdefault(role, []).extend(
                mean_score(
                    domain, metric, found.sums[name], found.sums[by], higher_is_better=better
                )
                for metric, (name, by, better) in names.items()
            )
    return part


def quantify_responses(
    prompts: Sequence[str],
    responses: Mapping[Role, Sequence[str]],
    judge: Judge | None,
    journal: Journal,
) -> Part:
    """How alike are the responses of students and teacher.

    Args:
        prompts: Requests.
        responses: To each prompt, of each model.
        judge: None for the figures that need none alone.
        journal: Of what was judged.

    Raises:
        ValueError: rouge-score is not installed, or the judge does not answer.
    """
    part, rouge = Part(), RougeL()
    reference = responses["teacher"]
    for role, found in responses.items():
        if role == "teacher":
            continue
        pairs = list(zip(prompts, reference, found, strict=True))
        scores = [
            of_items(RESPONSES, ROUGE_L, [rouge(a, b) for _, a, b in pairs]),
            of_items(RESPONSES, OVERLAP, [ngram_overlap(a, b) for _, a, b in pairs]),
        ]
        if judge is not None:
            questions = [similarity_question(*pair) for pair in pairs]
            answers = ask_all(judge, questions, journal, f"{TITLES[role]}, responses judged")
            judged = [read_scores(answer) for answer in answers]
            part.notes += _unreadable(f"{TITLES[role]}, responses", answers, judged)
            readable = [verdict for verdict in judged if verdict is not None]
            if readable:
                by_aspect = {a: [float(verdict[a]) for verdict in readable] for a in ASPECTS}
                by_aspect["mean"] = [sum(v.values()) / len(ASPECTS) for v in readable]
                scores += [
                    _of_readable(of_items(JUDGED, aspect, values), len(judged))
                    for aspect, values in by_aspect.items()
                ]
        part.scores[role] = scores
    return part


@dataclass
class IdentityPart(Part):
    """Also what was found in which answer."""

    findings: dict[Role, list[Finding]] = field(default_factory=dict)


def quantify_identity(
    prompts: Sequence[str],
    answers: Mapping[Role, Sequence[str]],
    rules: IdentityRules,
    judge: Judge | None,
    journal: Journal,
) -> IdentityPart:
    """How often answers contradict the facts about the student; see `identity.py`.

    Args:
        prompts: Questions about the model.
        answers: To each, of each model. The teacher is another model: its rates say where a
            student's contradictions may come from.
        rules: With the facts.
        judge: None for the rules alone.
        journal: Of what was judged.
    """
    part = IdentityPart()
    for role, found in answers.items():
        findings = [rules.find(answer) for answer in found]
        part.findings[role] = findings
        scores = [
            of_items(IDENTITY, LOOSE, [bool(f.loose) for f in findings], better=False),
            of_items(IDENTITY, STRICT, [bool(f.strict) for f in findings], better=False),
            of_items(IDENTITY, OWN_NAME, [f.names_itself for f in findings]),
        ]
        if judge is not None:
            questions = [
                identity_question(rules.facts.text, prompt, answer)
                for prompt, answer in zip(prompts, found, strict=True)
            ]
            said = ask_all(judge, questions, journal, f"{TITLES[role]}, identity judged")
            verdicts = [read_verdict(answer) for answer in said]
            part.notes += _unreadable(f"{TITLES[role]}, identity", said, verdicts)
            readable = [verdict for verdict in verdicts if verdict is not None]
            if readable:
                rates = {
                    LOOSE: [v["contradiction"] or v["identity"] for v in readable],
                    STRICT: [v["identity"] for v in readable],
                }
                scores += [
                    _of_readable(of_items(JUDGED_IDENTITY, rate, values, better=False), len(said))
                    for rate, values in rates.items()
                ]
        part.scores[role] = scores
    return part


def of_items(task: str, metric: str, values: Sequence[float], *, better: bool = True) -> Score:
    """The mean of the items, with its standard error."""
    ones = np.ones(len(values))
    return mean_score(task, metric, np.array(values, float), ones, higher_is_better=better)


def _of_readable(score: Score, num_asked: int) -> Score:
    """Without its items where some are missing: they would be compared with other ones."""
    if score.each is not None and len(score.each) < num_asked:
        return score.model_copy(update={"each": None, "weights": None})
    return score


def _unreadable(what: str, answers: Sequence[str], read: Sequence[object]) -> list[str]:
    """A note, if some answers of the judge could not be used."""
    bad = [answer for answer, found in zip(answers, read, strict=True) if found is None]
    if not bad:
        return []
    return [
        f"{what}: {len(bad)} of {len(answers)} answers of the judge were not what was asked for "
        f"and are left out; the first is {bad[0][:80]!r}"
    ]

"""What `taidscale quantify` does: it asks the models, compares, prints and writes."""

import os
from argparse import Namespace
from typing import Any

from taidscale.assessment.comparison import Models, TextSettings, score_domains
from taidscale.assessment.distillation_report import Texts, merge_scores, write_distillation
from taidscale.assessment.held_out_text import read_domains, text_notes
from taidscale.assessment.identity import IdentityRules, read_facts, shipped_prompts
from taidscale.assessment.journal import Journal
from taidscale.assessment.judge import Judge
from taidscale.assessment.quantification import (
    IdentityPart,
    quantify_identity,
    quantify_predictions,
    quantify_responses,
)
from taidscale.assessment.responses import Decoding, check_room, generate_responses, read_prompts
from taidscale.assessment.score_report import vocabulary_notes
from taidscale.assessment.similarity import RougeL
from taidscale.assessment.subjects import choose_placement, find_subjects
from taidscale.assessment.tables import as_text, score_table
from taidscale.data.contents import evenly_spaced
from taidscale.data.draw_lengths import import_pyplot

TOP_K = 10


def quantify(options: Namespace) -> None:
    """Check everything, ask the models, compare, print, write."""
    judge, facts = find_judge(options), find_facts(options)

    RougeL(), import_pyplot()  # are they installed
    prompts, asked = find_prompts(options)
    subjects = find_subjects(options.student, options.before, options.teacher)
    models = Models(choose_placement(options.device, options.dtype))
    domains = read_domains(options, subjects)
    for subject in subjects:
        check_room(subject, prompts if facts is None else [*prompts, *asked])
    if judge is not None:
        judge.ask("Someone asks whether you are there.", "Answer yes.")
    options.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.out / "finished.jsonl")
    judged = Journal(options.out / "judged.jsonl")

    text = TextSettings(options.batch_size, options.window_tokens, TOP_K)
    figures = score_domains(subjects, domains, models, journal, text)
    kinds = {"responses": prompts} | ({} if facts is None else {"identity": asked})
    said = ask_models(options, subjects, kinds, models, journal)
    parts = [quantify_predictions(figures, TOP_K)]
    parts.append(quantify_responses(prompts, said["responses"], judge, judged))
    identity = IdentityPart()
    if facts is not None:
        rules = IdentityRules(facts, shipped_prompts().others)
        identity = quantify_identity(asked, said["identity"], rules, judge, judged)
    scores = merge_scores([part.scores for part in (*parts, identity)])
    notes = vocabulary_notes(subjects) + text_notes(domains, subjects)
    notes += [note for part in (*parts, identity) for note in part.notes]
    files = write_distillation(
        options.out,
        subjects,
        scores,
        notes,
        Texts(prompts, said["responses"]),
        None if facts is None else Texts(asked, said["identity"]),
        identity,
        {name: str(value) for name, value in vars(options).items() if value is not None},
    )
    print(as_text(score_table(scores, float("inf"))))
    print("".join(f"{note}\n" for note in notes), end="")
    print(f"written: {', '.join(map(str, files))}")


def ask_models(
    options: Namespace, subjects: Any, kinds: dict[str, Any], models: Any, journal: Any
) -> dict[str, dict[Any, list[str]]]:
    """Answers to each kind of prompts, of each model."""
    decoding = Decoding(
        options.max_new_tokens, options.temperature, options.seed, options.batch_size
    )
    said: dict[str, dict[Any, list[str]]] = {kind: {} for kind in kinds}
    for subject in subjects:
        for kind, prompts in kinds.items():
            said[kind][subject.role] = generate_responses(
                subject, prompts, models, journal, decoding, kind
            )
        models.release(subject)
    return said


def find_prompts(options: Namespace) -> tuple[list[str], list[str]]:
    """Requests to respond to, and questions about the model."""
    shipped = shipped_prompts()
    found = shipped.responses
    if options.prompts is not None:
        found = read_prompts(options.prompts, options.prompt_column)
    asked = [prompt.text for prompt in shipped.identity]

    def some(prompts: list[str]) -> list[str]:
        return [prompts[k] for k in evenly_spaced(len(prompts), options.limit or len(prompts))]

    return some(found), some(asked)


def find_facts(options: Namespace) -> Any:
    """About the student, if they are given."""
    return None if options.facts is None else read_facts(options.facts)


def find_judge(options: Namespace) -> Any:
    """The endpoint, if one is given."""
    if options.judge_url is None:
        return None
    return Judge(
        options.judge_url,
        options.judge_model,
        os.environ.get(options.judge_key_variable),
        timeout_seconds=options.judge_timeout,
        num_parallel=options.judge_parallel,
    )

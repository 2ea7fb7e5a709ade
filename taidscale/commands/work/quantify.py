"""How distilled of its teacher is a student? Predictions, responses and identity.

python tools/quantify.py STUDENT --teacher FOLDER [--before FOLDER] --out OUT
       [--text NAME=PATH ...] [--prompts FILE] [--facts FACTS.yaml]
       [--judge-url http://127.0.0.1:8000/v1 --judge-model NAME]

Models are Hugging Face folders or Hub ids. On held-out text: KL both ways, Jensen-Shannon, shared
likeliest tokens, entropies. On prompts (a few come with the project): ROUGE-L and n-gram overlap of
the responses, and a judge's scores for style, logic and content, 1 to 5. With --facts (YAML: name,
developer, also_named, may_name, facts): answers about itself that contradict them, by rules and by
the judge. The judge is any OpenAI-compatible endpoint; its key is read from the environment.
OUT receives distillation.md, .json and .png; what was ended goes on. See arXiv:2501.12619.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

# It works from a bare clone, and does not hide packages that share a name with a tool.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from taidscale.assessment.arguments import add_placement, add_text, at_least

TOP_K = 10


def parse_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("student", metavar="STUDENT", help="after distillation")
    parser.add_argument("--teacher", required=True, metavar="FOLDER")
    parser.add_argument("--before", metavar="FOLDER", help="the student before distillation")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT")
    add_text(parser)
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="to respond to")
    parser.add_argument("--prompt-column", default="prompt", help="of JSONL and Parquet")
    parser.add_argument("--limit", type=at_least(1), help="prompts of each kind; default: all")
    parser.add_argument("--max-new-tokens", type=at_least(1), default=256, help="of a response")
    parser.add_argument(
        "--temperature", type=at_least(0, float), default=0.0, help="0: the likeliest token"
    )
    parser.add_argument("--facts", type=Path, metavar="YAML", help="of the student's identity")
    parser.add_argument("--judge-url", metavar="URL", help="of an OpenAI-compatible endpoint")
    parser.add_argument("--judge-model", metavar="NAME")
    parser.add_argument("--judge-key-variable", default="OPENAI_API_KEY", metavar="NAME")
    parser.add_argument("--judge-timeout", type=at_least(0, float), default=120.0, help="seconds")
    parser.add_argument("--judge-parallel", type=at_least(1), default=4, help="questions at a time")
    add_placement(parser)
    return parser.parse_args()


def quantify(options: argparse.Namespace) -> None:
    """Check everything, ask the models, compare, print, write."""
    judge, facts = find_judge(options), find_facts(options)

    from taidscale.assessment.comparison import Models, TextSettings, score_domains
    from taidscale.assessment.distillation_report import Texts, merge_scores, write_distillation
    from taidscale.assessment.held_out_text import read_domains, text_notes
    from taidscale.assessment.identity import IdentityRules, shipped_prompts
    from taidscale.assessment.journal import Journal
    from taidscale.assessment.quantification import (
        IdentityPart,
        quantify_identity,
        quantify_predictions,
        quantify_responses,
    )
    from taidscale.assessment.responses import check_room
    from taidscale.assessment.score_report import vocabulary_notes
    from taidscale.assessment.similarity import RougeL
    from taidscale.assessment.subjects import choose_placement, find_subjects
    from taidscale.assessment.tables import as_text, score_table
    from taidscale.data.draw_lengths import import_pyplot

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
    options: argparse.Namespace, subjects: Any, kinds: dict[str, Any], models: Any, journal: Any
) -> dict[str, dict[Any, list[str]]]:
    """Answers to each kind of prompts, of each model."""
    from taidscale.assessment.responses import Decoding, generate_responses

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


def find_prompts(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Requests to respond to, and questions about the model."""
    from taidscale.assessment.identity import shipped_prompts
    from taidscale.assessment.responses import read_prompts
    from taidscale.data.contents import evenly_spaced

    shipped = shipped_prompts()
    found = shipped.responses
    if options.prompts is not None:
        found = read_prompts(options.prompts, options.prompt_column)
    asked = [prompt.text for prompt in shipped.identity]

    def some(prompts: list[str]) -> list[str]:
        return [prompts[k] for k in evenly_spaced(len(prompts), options.limit or len(prompts))]

    return some(found), some(asked)


def find_facts(options: argparse.Namespace) -> Any:
    """About the student, if they are given."""
    from taidscale.assessment.identity import read_facts

    return None if options.facts is None else read_facts(options.facts)


def find_judge(options: argparse.Namespace) -> Any:
    """The endpoint, if one is given."""
    from taidscale.assessment.judge import Judge

    if (options.judge_url is None) != (options.judge_model is None):
        raise ValueError("--judge-url and --judge-model go together; give both or neither")
    if options.judge_url is None:
        return None
    return Judge(
        options.judge_url,
        options.judge_model,
        os.environ.get(options.judge_key_variable),
        timeout_seconds=options.judge_timeout,
        num_parallel=options.judge_parallel,
    )


def main() -> int:
    """Run; what is wrong is one line on stderr, with status 2."""
    try:
        quantify(parse_arguments())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

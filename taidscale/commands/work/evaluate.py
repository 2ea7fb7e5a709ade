"""What did the student lose and win? Teacher, student before and after, side by side.

python tools/evaluate.py STUDENT --before FOLDER --teacher FOLDER --out OUT
       [--tasks blimp,arc_easy --data FOLDER] [--text japanese=held-out.jsonl english=data/shards]
       [--limit N]

Models are Hugging Face folders, as tools/export_hf.py writes them, or Hub ids. A task is a file of
--data whose name begins like it (JSONL or JSON with query, choices, gold; context, continuation;
sentence_good, sentence_bad; question, choice0, ..., label; or a .tar.gz of such files), or else a
task of lm-evaluation-harness. Text is what tools/prepare_data.py reads, or shards. OUT receives
results.json, scores.md for the model card and scores.png; an evaluation that was ended goes on.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

# It works from a bare clone, and does not hide the package `evaluate` from the harness.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from taidscale.assessment.arguments import add_placement, add_text, at_least


def parse_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("student", metavar="STUDENT", help="after distillation")
    parser.add_argument("--before", metavar="FOLDER", help="the student before distillation")
    parser.add_argument("--teacher", metavar="FOLDER")
    parser.add_argument("--tasks", default="", help="names, with commas between them")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="of the files of tasks")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT")
    parser.add_argument("--limit", type=at_least(1), help="rows of a task; default: all")
    add_text(parser)
    parser.add_argument("--num-fewshot", type=at_least(0), help="of the harness's own tasks")
    parser.add_argument("--chat-template", action="store_true", help="prompts are turns of a chat")
    parser.add_argument("--min-errors", type=at_least(0, float), default=1.0, metavar="X",
                        help="standard errors beyond which a change is named")  # fmt: skip
    add_placement(parser)
    return parser.parse_args()


def evaluate(options: argparse.Namespace) -> None:
    """Check everything, score, print, write."""
    if not options.tasks and not options.text:
        raise ValueError("nothing to evaluate; give --tasks, --text or both")
    from taidscale.assessment.comparison import (
        Models,
        TextSettings,
        domain_scores,
        score_domains,
        score_tasks,
    )
    from taidscale.assessment.harness import HarnessSettings
    from taidscale.assessment.held_out_text import read_domains, text_notes
    from taidscale.assessment.journal import Journal
    from taidscale.assessment.score_report import find_changes, vocabulary_notes, write_scores
    from taidscale.assessment.subjects import TITLES, choose_placement, find_subjects
    from taidscale.assessment.tables import as_text, score_table
    from taidscale.data.draw_lengths import import_pyplot

    import_pyplot()  # is it installed
    subjects = find_subjects(options.student, options.before, options.teacher)
    models = Models(choose_placement(options.device, options.dtype))
    tasks, index = find_tasks(options)
    domains = read_domains(options, subjects)
    options.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.out / "finished.jsonl")
    harness = HarnessSettings(
        batch_size=options.batch_size,
        limit=options.limit,
        num_fewshot=options.num_fewshot,
        chat_template=options.chat_template,
        seed=options.seed,
    )
    scores = score_tasks(subjects, tasks, models, journal, harness, index)
    text = TextSettings(options.batch_size, options.window_tokens, top_k=10)
    figures = score_domains(subjects, domains, models, journal, text)
    for role, found in figures.items():
        scores[role] += [s for name, one in found.items() for s in domain_scores(name, one)]
    shown = {name: str(value) for name, value in vars(options).items() if value is not None}
    notes = [*vocabulary_notes(subjects), *text_notes(domains, subjects)]
    files = write_scores(options.out, subjects, scores, figures, shown, options.min_errors, notes)
    for subject in subjects:
        millions = subject.num_parameters / 1e6
        print(f"{TITLES[subject.role]:<15} {subject.folder}, {millions:,.1f} M parameters")
    print(as_text(score_table(scores, options.min_errors)))
    lost, won = find_changes(scores, options.min_errors)
    for line in [*won, *lost, *notes]:
        print(line)
    if options.before is not None and not lost:
        print(f"nothing was lost by more than {options.min_errors:g} standard errors")
    print(f"written: {', '.join(map(str, files))}")


def find_tasks(options: argparse.Namespace) -> tuple[list[Any], Any]:
    """Those in files, and names of the harness with its index."""
    from taidscale.assessment.harness import harness_version, open_harness
    from taidscale.assessment.local_tasks import find_local_task, local_names

    names = [name.strip() for name in options.tasks.split(",") if name.strip()]
    folder: Path | None = options.data
    if folder is not None and not folder.is_dir():
        raise ValueError(f"--data: there is no folder {folder}")
    tasks: list[Any] = []
    for name in dict.fromkeys(names):
        found = None if folder is None else find_local_task(name, folder, options.limit)
        tasks.append(name if found is None else found)
    if not tasks:
        return [], None
    harness_version()
    own = [task for task in tasks if isinstance(task, str)]
    return tasks, open_harness(own, [] if folder is None else local_names(folder))


def main() -> int:
    """Run; what is wrong is one line on stderr, with status 2."""
    try:
        evaluate(parse_arguments())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

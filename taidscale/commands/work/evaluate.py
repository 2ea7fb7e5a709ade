"""What `taidscale evaluate` does: it scores the models, prints and writes."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from taidscale.assessment.comparison import (
    Models,
    TextSettings,
    domain_scores,
    score_domains,
    score_tasks,
)
from taidscale.assessment.harness import HarnessSettings, harness_version, open_harness
from taidscale.assessment.held_out_text import read_domains, text_notes
from taidscale.assessment.journal import Journal
from taidscale.assessment.local_tasks import find_local_task, local_names
from taidscale.assessment.score_report import find_changes, vocabulary_notes, write_scores
from taidscale.assessment.subjects import TITLES, choose_placement, find_subjects
from taidscale.assessment.tables import as_text, score_table
from taidscale.data.draw_lengths import import_pyplot


def evaluate(options: Namespace) -> None:
    """Check everything, score, print, write."""
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


def find_tasks(options: Namespace) -> tuple[list[Any], Any]:
    """Those in files, and names of the harness with its index."""
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

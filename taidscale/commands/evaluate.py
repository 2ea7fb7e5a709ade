"""What did the student lose and win? Teacher, student before and after, side by side.

taidscale evaluate STUDENT --before FOLDER --teacher FOLDER --out OUT
       [--tasks blimp,arc_easy --data FOLDER] [--text japanese=held-out.jsonl english=data/shards]
       [--limit N]

Models are Hugging Face folders, as `taidscale export` writes them, or Hub ids. A task is a file of
--data whose name begins like it (JSONL or JSON with query, choices, gold; context, continuation;
sentence_good, sentence_bad; question, choice0, ..., label; or a .tar.gz of such files), or else a
task of lm-evaluation-harness. Text is what `taidscale prepare` reads, or shards. OUT receives
results.json, scores.md for the model card and scores.png; an evaluation that was ended goes on.
"""

from argparse import Namespace
from pathlib import Path

from taidscale.assessment.arguments import add_placement, add_text, at_least
from taidscale.commands.outcome import fail
from taidscale.commands.parser import command_parser


def parse_arguments(arguments: list[str] | None) -> Namespace:
    """What the command line says."""
    parser = command_parser("evaluate", __doc__)
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
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run; what is wrong is one line on stderr, with status 2."""
    options = parse_arguments(arguments)
    if not options.tasks and not options.text:
        return fail("nothing to evaluate; give --tasks, --text or both")
    from taidscale.commands.work.evaluate import evaluate  # late: --help waits for no torch

    try:
        evaluate(options)
    except (ValueError, OSError) as error:
        return fail(str(error))
    return 0

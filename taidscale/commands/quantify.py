"""How distilled of its teacher is a student? Predictions, responses and identity.

taidscale quantify STUDENT --teacher FOLDER [--before FOLDER] --out OUT
       [--text NAME=PATH ...] [--prompts FILE] [--facts FACTS.yaml]
       [--judge-url http://127.0.0.1:8000/v1 --judge-model NAME]

Models are Hugging Face folders or Hub ids. On held-out text: KL both ways, Jensen-Shannon, shared
likeliest tokens, entropies. On prompts (a few come with the project): ROUGE-L and n-gram overlap of
the responses, and a judge's scores for style, logic and content, 1 to 5. With --facts (YAML: name,
developer, also_named, may_name, facts): answers about itself that contradict them, by rules and by
the judge. The judge is any OpenAI-compatible endpoint; its key is read from the environment.
OUT receives distillation.md, .json and .png; what was ended goes on. See arXiv:2501.12619.
"""

from argparse import Namespace
from pathlib import Path

from taidscale.assessment.arguments import add_placement, add_text, at_least
from taidscale.commands.outcome import fail
from taidscale.commands.parser import command_parser


def parse_arguments(arguments: list[str] | None) -> Namespace:
    """What the command line says."""
    parser = command_parser("quantify", __doc__)
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
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run; what is wrong is one line on stderr, with status 2."""
    options = parse_arguments(arguments)
    if (options.judge_url is None) != (options.judge_model is None):
        return fail("--judge-url and --judge-model go together; give both or neither")
    from taidscale.commands.work.quantify import quantify  # late: --help waits for no torch

    try:
        quantify(options)
    except (ValueError, OSError) as error:
        return fail(str(error))
    return 0

"""Let models go on with the same prompts, side by side.

taidscale generate MODEL... --prompt TEXT... [--chat] [--teacher]
taidscale generate MODEL... --prompts FILE [--out answers.jsonl]

A model is a run's folder (its newest checkpoint), a checkpoint (RUN_DIR/checkpoints/step-00000100),
an exported folder, or any other model by folder or Hub id. One process, on the GPU if there is one.
"""

import argparse
from pathlib import Path

from taidscale.commands.outcome import fail
from taidscale.commands.parser import command_parser


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 2 for a user's error."""
    options = parser().parse_args(arguments)
    try:
        check(options)
        # Dear: torch, transformers and, for checkpoints, DeepSpeed.
        from taidscale.commands.work.generate import generate_side_by_side

        generate_side_by_side(options)
    except (ValueError, OSError) as error:
        return fail(str(error))
    return 0


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = command_parser("generate", __doc__)
    made.add_argument("models", nargs="+", metavar="MODEL")
    made.add_argument("--teacher", action="store_true", help="also the teacher of the first run")
    made.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="repeatable")
    made.add_argument(
        "--prompts", type=Path, metavar="FILE", help="a line each, or `prompt` of .jsonl, .parquet"
    )
    made.add_argument("--chat", action="store_true", help="as a user's turn, by the chat template")
    made.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="default: 128")
    made.add_argument(
        "--temperature", type=float, default=0.0, help="default: 0, the likeliest token each time"
    )
    made.add_argument("--seed", type=int, default=0, help="of draws, for each prompt; default: 0")
    made.add_argument("--out", type=Path, metavar="FILE", help="JSON lines, beside what is shown")
    made.add_argument("--device", help="default: the GPU, else the CPU")
    made.add_argument("--dtype", choices=["bf16", "fp32"], help="default: bf16, on a CPU fp32")
    return made


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be, before anything large is imported."""
    if bool(options.prompt) == (options.prompts is not None):
        raise ValueError("give either --prompt TEXT or --prompts FILE")
    if options.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens must be above 0 (got {options.max_new_tokens})")
    if not 0 <= options.temperature < float("inf"):
        raise ValueError(f"--temperature must not be below 0 (got {options.temperature})")
    if twice := [name for name in options.models if options.models.count(name) > 1]:
        raise ValueError(f"{twice[0]} is named twice")
    if options.out is not None and options.out.exists():
        raise ValueError(f"{options.out} exists already; choose another --out, or remove it")

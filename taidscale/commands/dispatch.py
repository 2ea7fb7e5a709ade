"""Distil a big language model into a small one, at scale.

Each command says more with --help: taidscale plan --help.
"""

import argparse
import difflib
import os
import sys
import traceback
from importlib import import_module

from taidscale import __version__
from taidscale.commands.outcome import end_at_once, fail

COMMANDS = {
    "train": "distil, on this rank; launchers start one for each GPU",
    "check": "whether a configuration is right, at once",
    "init": "write a configuration for a teacher, a student and a number of GPUs",
    "plan": "memory, time, traffic and disk of a run, before it runs",
    "verify": "whether this cluster computes right gradients",
    "nodes": "whether the nodes of a run are well",
    "prepare": "turn text or chats into shards of token ids",
    "inspect": "what shards hold, and whether they are whole",
    "tokenizer": "train a tokenizer",
    "report": "draw runs on one page",
    "show": "what a checkpoint holds",
    "export": "write a run's student as a Hugging Face folder",
    "generate": "text from a checkpoint, an exported folder or the teacher",
    "evaluate": "what the student lost and won",
    "quantify": "how distilled of its teacher a student is",
    "publish": "send an exported student to the Hugging Face Hub",
    "quickstart": "a whole distillation on two CPU cores",
    "settings": "every setting of a configuration",
    "restart": "whether the same run should be started again",
    "stop": "ask a run to save and end",
}
"""Each is a module of this package that has a `main`; only the one that is asked for is imported,
and it imports what is large once its arguments are read.
"""


BROKEN_PIPE = 128 + 13
"""Exit status, as that of a program that SIGPIPE ends."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit status, 2 where there is none of that name."""
    options = parser().parse_args(arguments)
    if options.command not in COMMANDS:
        near = difflib.get_close_matches(options.command, COMMANDS, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else "taidscale --help lists them"
        return fail(f"there is no command {options.command!r}; {remedy}")
    command = import_module(f"taidscale.commands.{options.command}")
    try:
        status: int = command.main(options.arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception:
        if "RANK" not in os.environ:
            raise
        traceback.print_exc()
        end_at_once(1)
    return status


def parser() -> argparse.ArgumentParser:
    """What stands before the arguments of the command itself."""
    parser = argparse.ArgumentParser(
        prog="taidscale",
        usage="taidscale [--version] [--help] COMMAND ...",
        description=__doc__,
        epilog="commands:\n" + "\n".join(f"  {name:<12}{what}" for name, what in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"taidscale {__version__}")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # deepspeed adds it
    parser.add_argument("command", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser

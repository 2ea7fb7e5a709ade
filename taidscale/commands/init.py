"""Write a first configuration for a teacher, a student and a number of GPUs.

taidscale init --teacher MODEL --student MODEL --gpus N [--gpu h100-80g] [--tokens 10B]
               [--data DIR...] [--held-out DIR] [--out run.yaml]
taidscale init --examples DIR

Models are folders or Hub ids; of the Hub at most config.json is fetched. The planner chooses
tp_size, micro-batch and what else decides whether it fits, and how fast it is; a teacher that
cannot fit is refused, with what would. `--examples` copies launchers and example configurations.
"""

import argparse
import re
from pathlib import Path

from taidscale import examples
from taidscale.commands.outcome import fail
from taidscale.commands.parser import command_parser

_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 2 for a user's error."""
    options = parser().parse_args(arguments)
    try:
        for line in initialise(options):
            print(line)
    except (ValueError, OSError) as error:
        return fail(str(error))
    return 0


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = command_parser("init", __doc__)
    made.add_argument("--teacher", metavar="MODEL", help="folder or Hub id")
    made.add_argument("--student", metavar="MODEL", help="folder or Hub id, trained already")
    made.add_argument("--gpus", type=int, metavar="N", help="in all")
    made.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="default: 8")
    made.add_argument("--gpu", default="h100-80g", help="by name; a wrong one lists the known")
    made.add_argument("--tokens", default="10B", help="of the whole run, such as 500M; default 10B")
    made.add_argument(
        "--seq-len", type=int, metavar="N", help="default: that of the shards, or 4096"
    )
    made.add_argument(
        "--data", nargs="+", default=["data/train"], metavar="DIR", help="shards, also future ones"
    )
    made.add_argument("--held-out", metavar="DIR", help="shards to measure with")
    made.add_argument("--run-dir", default="runs/first", metavar="DIR", help="default: runs/first")
    made.add_argument("--out", type=Path, default=Path("run.yaml"), help="default: run.yaml")
    made.add_argument("--force", action="store_true", help="replace what is there")
    made.add_argument("--examples", type=Path, metavar="DIR", help="copy the examples there")
    return made


def initialise(options: argparse.Namespace) -> list[str]:
    """Do what is asked.

    Returns:
        What to tell the user.

    Raises:
        ValueError: if something is missing or wrong; then nothing is written.
    """
    asked = {f"--{name}": getattr(options, name) for name in ("teacher", "student", "gpus")}
    missing = [name for name, value in asked.items() if value is None]
    if options.examples is not None and len(missing) == len(asked):
        return copy_examples(options.examples)
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be given, or --examples DIR alone")
    check_numbers(options.gpus, options.gpus_per_node, options.seq_len)
    out: Path = options.out
    if out.exists() and not options.force:
        raise ValueError(f"{out} exists already; choose another --out, or replace it by --force")
    tokens = read_tokens(options.tokens)
    # Dear: the planner reads models with transformers, and knows chunks from torch.
    from taidscale.commands.work.init import write_first_run

    told = write_first_run(options, tokens)
    return told if options.examples is None else [*told, *copy_examples(options.examples)]


def check_numbers(gpus: int, per_node: int, seq_len: int | None) -> None:
    """Refuse numbers that cannot be, before anything large is imported."""
    if gpus < 1 or per_node < 1:
        raise ValueError(f"--gpus {gpus} and --gpus-per-node {per_node} must be above 0")
    if gpus > per_node and gpus % per_node:
        raise ValueError(f"--gpus: {gpus} is not a multiple of the {per_node} GPUs of a node")
    if seq_len is not None and seq_len < 2:
        raise ValueError(f"--seq-len must be 2 or more (got {seq_len})")


def read_tokens(given: str) -> int:
    """A number such as 10B, 1.5T or 500_000_000.

    Raises:
        ValueError: if it is none.
    """
    found = re.fullmatch(r"(\d[\d_,]*(?:\.\d+)?)([kmbt]?)", given.strip(), re.IGNORECASE)
    number = 0.0
    if found is not None:
        digits = found[1].replace("_", "").replace(",", "")
        number = float(digits) * _FACTORS[found[2].lower()]
    if number < 1:
        raise ValueError(f"--tokens: {given!r} is no number of tokens such as 500M or 10B")
    return round(number)


def copy_examples(folder: Path) -> list[str]:
    """Launchers and example configurations, out of the installation."""
    return [f"wrote {path}" for path in examples.copy_examples(folder)]

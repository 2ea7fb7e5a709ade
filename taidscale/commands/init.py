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
import sys
from pathlib import Path

USER_ERROR = 2
PADDING = 1024
"""Rows by which the heads of models with one tokenizer may differ."""
_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 2 for a user's error."""
    options = parser().parse_args(arguments)
    try:
        for line in initialise(options):
            print(line)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    return 0


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        prog="taidscale init",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    told = write_first_run(options, read_tokens(options.tokens))
    return told if options.examples is None else [*told, *copy_examples(options.examples)]


def write_first_run(options: argparse.Namespace, tokens: int) -> list[str]:
    """Choose the settings, write the file, and say what comes next.

    Raises:
        ValueError: if a model or the data are not understood, or nothing fits.
    """
    # Dear: the planner reads models with transformers, and knows chunks from torch.
    import yaml

    from taidscale.config.schema import RunConfig
    from taidscale.durable import replace_file
    from taidscale.planning.commented_yaml import commented_yaml, summary
    from taidscale.planning.first_run import Wish, first_run
    from taidscale.planning.gpus import find_gpu

    gpu = find_gpu(options.gpu)
    wish = Wish(
        options.teacher,
        options.student,
        gpu,
        options.gpus,
        options.gpus_per_node,
        tokens,
        seq_len_of(options),
        tuple(options.data),
        options.held_out,
        options.run_dir,
    )
    load = first_run(wish)
    text = commented_yaml(load, gpu)
    assert RunConfig.model_validate(yaml.safe_load(text)) == load.config
    replace_file(options.out, text)
    machine = f"--gpus {options.gpus} --gpus-per-node {options.gpus_per_node} --gpu {options.gpu}"
    told = [f"wrote {options.out}", summary(load, gpu)]
    assert load.teacher is not None
    rows = sorted((load.teacher.vocab_size, load.student.vocab_size))
    if rows[1] - rows[0] > PADDING:
        told.append(
            f"warning: the heads have {rows[0]:,} and {rows[1]:,} rows; teacher and student must "
            "have the same tokenizer, which each start checks"
        )
    if missing := [folder for folder in options.data if not Path(folder).is_dir()]:
        told.append(
            f"next, the shards: taidscale prepare --tokenizer {options.teacher} "
            f"--seq-len {load.config.seq_len} --out {missing[0]} TEXT..."
        )
    return [*told, f"more figures: taidscale plan {options.out} {machine}"]


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


def seq_len_of(options: argparse.Namespace) -> int | None:
    """What is asked for, or what the shards have that are there already; None for neither.

    Raises:
        ValueError: if a folder holds no shards, or they differ.
    """
    # Dear: streaming imports torch.
    from taidscale.data.manifest import read_manifest
    from taidscale.home import at_home

    given = [*options.data, *filter(None, [options.held_out])]
    folders = [folder for folder in given if at_home(folder).is_dir()]
    found = {folder: read_manifest(at_home(folder)).seq_len for folder in folders}
    if options.seq_len is not None:
        found["--seq-len"] = options.seq_len
    if len(set(found.values())) > 1:
        differ = ", ".join(f"{name} {seq_len}" for name, seq_len in found.items())
        raise ValueError(f"the lengths of sequences differ: {differ}; a run has one")
    return next(iter(found.values()), None)


def copy_examples(folder: Path) -> list[str]:
    """Launchers and example configurations, out of the installation."""
    from taidscale import examples  # type: ignore[attr-defined, unused-ignore]

    return [f"wrote {path}" for path in examples.copy_examples(folder)]


if __name__ == "__main__":
    sys.exit(main())

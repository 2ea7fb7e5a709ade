"""What `taidscale init` does: the planner's choice becomes a file."""

from argparse import Namespace

import yaml

from taidscale.config.schema import RunConfig
from taidscale.data.manifest import read_manifest
from taidscale.durable import replace_file
from taidscale.home import at_home
from taidscale.planning.commented_yaml import commented_yaml, summary
from taidscale.planning.first_run import Wish, first_run
from taidscale.planning.gpus import find_gpu

PADDING = 1024
"""Rows by which the heads of models with one tokenizer may differ."""


def write_first_run(options: Namespace, tokens: int) -> list[str]:
    """Choose the settings, write the file, and say what comes next.

    Raises:
        ValueError: if a model or the data are not understood, or nothing fits.
    """
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
    if RunConfig.model_validate(yaml.safe_load(text)) != load.config:
        raise RuntimeError(f"the file would not say what was planned:\n{text}")
    replace_file(options.out, text)
    machine = f"--gpus {options.gpus} --gpus-per-node {options.gpus_per_node} --gpu {options.gpu}"
    told = [f"wrote {options.out}", summary(load, gpu)]
    assert load.teacher is not None
    rows = sorted((load.teacher.vocab_size, load.student.vocab_size))
    if rows[1] - rows[0] > PADDING:
        told.append(
            f"warning: the heads have {rows[0]:,} and {rows[1]:,} rows; teacher and student must "
            "have the same tokenizer, or teacher.vocabulary: shared_prefix, which each start checks"
        )
    if missing := [folder for folder in options.data if not at_home(folder).is_dir()]:
        told.append(
            f"next, the shards: taidscale prepare --tokenizer {options.teacher} "
            f"--seq-len {load.config.seq_len} --out {missing[0]} TEXT..."
        )
    return [*told, f"more figures: taidscale plan {options.out} {machine}"]


def seq_len_of(options: Namespace) -> int | None:
    """What is asked for, or what the shards have that are there already; None for neither.

    Raises:
        ValueError: if a folder holds no shards, or they differ.
    """
    given = [*options.data, *filter(None, [options.held_out])]
    folders = [folder for folder in given if at_home(folder).is_dir()]
    found = {folder: read_manifest(at_home(folder)).seq_len for folder in folders}
    if options.seq_len is not None:
        found["--seq-len"] = options.seq_len
    if len(set(found.values())) > 1:
        differ = ", ".join(f"{name} {seq_len}" for name, seq_len in found.items())
        raise ValueError(f"the lengths of sequences differ: {differ}; a run has one")
    return next(iter(found.values()), None)

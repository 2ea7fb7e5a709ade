"""What a run's folder holds besides checkpoints: its settings and the student's identity.

run_dir/
  config.yaml         every setting of the run, defaults included
  lock                who is writing here
  student/            config.json, tokenizer and generation settings, for the export
  metrics.jsonl       a line a step
  evaluations.jsonl   a line an evaluation
  checkpoints/        step-00000100/, ...
"""

import errno
import fcntl
import logging
import os
import shutil
import socket
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from taidscale import __version__
from taidscale.checkpoint.store import latest_checkpoint
from taidscale.config.load import dump_config, flat_settings, load_config
from taidscale.config.schema import RunConfig
from taidscale.parallel.grid import Grid
from taidscale.preflight import Prepared

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
CHECKPOINTS_FOLDER = "checkpoints"
LOCK_FILE = "lock"
STUDENT_FOLDER = "student"


def open_run_folder(config: RunConfig, prepared: Prepared, grid: Grid) -> IO[str] | None:
    """Create it, or compare its settings with those of an earlier start, on the first rank.

    Returns:
        A lock on the folder, to be kept open for as long as the run writes to it.

    Raises:
        ValueError: if it cannot be written, or another process is running this run.
    """
    if not grid.is_first:
        return None
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        lock = _lock(config.run_dir)
        path = config.run_dir / CONFIG_FILE
        if path.exists():
            _compare(flat_settings(load_config(path)), flat_settings(config), config.run_dir)
        _write_aside(path, dump_config(config))
        student = config.run_dir / STUDENT_FOLDER
        prepared.student.save_pretrained(student)
        tokenizer = prepared.vocabulary.tokenizer.hf
        assert tokenizer is not None, "model folders hold Hugging Face tokenizers"
        tokenizer.save_pretrained(student)
        if prepared.generation is not None:
            shutil.copy(prepared.generation, student)
    except OSError as error:
        raise ValueError(f"run_dir: cannot write to {config.run_dir}: {error}") from None
    return lock


def _lock(run_dir: Path) -> IO[str]:
    """Keep a second start, or ranks that outlived their launcher, from writing here too."""
    file = (run_dir / LOCK_FILE).open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            log.warning("%s cannot be locked (%s); start this run only once", run_dir, error)
            return file
        file.seek(0)
        raise ValueError(
            f"run_dir: {run_dir} is in use by {file.read().strip()}; wait for it, end it, or "
            "choose another run_dir"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def installed_versions() -> dict[str, str]:
    """Of what a result depends on."""
    libraries = ("torch", "deepspeed", "transformers", "mosaicml-streaming")
    return {"taidscale": __version__} | {name: version(name) for name in libraries}


def _compare(before: dict[str, Any], now: dict[str, Any], run_dir: Path) -> None:
    """Say which settings changed; refuse those that checkpoints cannot follow."""
    changed = [n for n in sorted(before.keys() | now.keys()) if before.get(n) != now.get(n)]
    differences = [f"{n} was {before.get(n)!r} and is {now.get(n)!r} now" for n in changed]
    fixed = [
        difference
        for name, difference in zip(changed, differences, strict=True)
        if name.startswith(("student.init.", "precision", "zero.stage", "zero.offload"))
    ]
    if fixed and latest_checkpoint(run_dir / CHECKPOINTS_FOLDER):
        raise ValueError(
            f"{run_dir} has checkpoints that do not fit: {'; '.join(fixed)}. Put it back, or "
            "choose another run_dir"
        )
    for difference in differences:
        log.warning("since this run was last started: %s", difference)


def _write_aside(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)

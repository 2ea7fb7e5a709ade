"""What a run's folder holds besides checkpoints: its settings and the student's identity.

run_dir/
  config.yaml         every setting of the run, defaults included
  lock                who is writing here
  student/            config.json, tokenizer, generation settings and lineage, for the export
  metrics.jsonl       a line a step
  evaluations.jsonl   a line an evaluation
  events.jsonl        a line for whatever else is worth knowing: starts, skipped steps, roll-backs
  tensorboard/        the same for TensorBoard, if asked for
  status.json         how the last start ended, see `run_status`
  checkpoints/        step-00000100/, ...
"""

import errno
import fcntl
import logging
import os
import shutil
import socket
import time
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from taidscale import __version__
from taidscale.checkpoint.folder import latest_checkpoint
from taidscale.checkpoint.manifest import flush_to_disk
from taidscale.config.load import dump_config, flat_settings, load_config
from taidscale.config.schema import RunConfig
from taidscale.models.save import save_config
from taidscale.preflight import INHERITED_FILES, Prepared
from taidscale.run_status import CHECKPOINTS_FOLDER, CONFIG_FILE, LOCK_FILE

log = logging.getLogger(__name__)

STUDENT_FOLDER = "student"
DEAD_NODE_SECONDS = 120.0
"""How long a file system may keep the lock of a node that has died; NFS does for 90."""


def lock_run_folder(run_dir: Path) -> IO[str]:
    """Create it; the lock is to be kept open for as long as the run writes to it.

    Raises:
        ValueError: if it cannot be written, or another process is running this run.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        return _lock(run_dir)
    except OSError as error:
        raise ValueError(f"run_dir: cannot write to {run_dir}: {error}") from None


def fill_run_folder(config: RunConfig, prepared: Prepared) -> None:
    """Write the settings, once compared with those of an earlier start, and the student's files.

    Raises:
        ValueError: if it cannot be written, or earlier checkpoints do not fit.
    """
    try:
        path = config.run_dir / CONFIG_FILE
        if path.exists():
            _compare(flat_settings(load_config(path)), flat_settings(config), config.run_dir)
        _write_aside(path, dump_config(config))
        student = config.run_dir / STUDENT_FOLDER
        save_config(prepared.student, student)
        tokenizer = prepared.vocabulary.tokenizer.hf
        assert tokenizer is not None, "model folders hold Hugging Face tokenizers"
        tokenizer.save_pretrained(student)
        for name in INHERITED_FILES:  # what an earlier start found may be there no more
            (student / name).unlink(missing_ok=True)
        for file in prepared.inherited:
            shutil.copyfile(file, student / file.name)
    except OSError as error:
        raise ValueError(f"run_dir: cannot write to {config.run_dir}: {error}") from None


def _lock(run_dir: Path) -> IO[str]:
    """Keep a second start, or ranks that outlived their launcher, from writing here too."""
    file = (run_dir / LOCK_FILE).open("a+", encoding="utf-8")
    deadline = time.monotonic() + DEAD_NODE_SECONDS
    waiting = False
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                log.warning("%s cannot be locked (%s); start this run only once", run_dir, error)
                return file
        file.seek(0)
        holder = file.read().strip()
        if holder.endswith(f" on {socket.gethostname()}") or time.monotonic() > deadline:
            raise ValueError(
                f"run_dir: {run_dir} is in use by {holder}; wait for it, end it, or choose "
                "another run_dir"
            )
        if not waiting:
            log.warning("%s is in use by %s; waiting whether its node is dead", run_dir, holder)
        waiting = True
        time.sleep(1)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def installed_versions() -> dict[str, str]:
    """Of what a result depends on."""
    libraries = ("torch", "deepspeed", "transformers", "mosaicml-streaming")
    return {"taidscale": __version__} | {name: version(name) for name in libraries}


def _compare(before: dict[str, Any], now: dict[str, Any], run_dir: Path) -> None:
    """Say which settings changed; refuse those that checkpoints cannot follow.

    Only where the student comes from is fixed: another one's weights and moments have no place
    in it. How it is spread (ranks, `zero`, `precision`) may change: they are converted.
    """
    changed = [n for n in sorted(before.keys() | now.keys()) if before.get(n) != now.get(n)]
    differences = [f"{n} was {before.get(n)!r} and is {now.get(n)!r} now" for n in changed]
    fixed = [
        difference
        for name, difference in zip(changed, differences, strict=True)
        if name.startswith("student.init.")
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
    flush_to_disk(aside)
    os.replace(aside, path)

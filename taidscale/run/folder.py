"""What a run's folder holds besides checkpoints: its settings and the student's identity."""

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import time
from pathlib import Path
from typing import IO

from taidscale.config.load import dump_config
from taidscale.config.schema import RunConfig
from taidscale.durable import replace_file
from taidscale.file_names import CONFIG_FILE, LOCK_FILE, MODELS_FILE, STUDENT_FOLDER
from taidscale.models.save import save_config
from taidscale.models.sources import Record, changed_files
from taidscale.run.preflight import INHERITED_FILES, Prepared
from taidscale.run.status import newest_step

log = logging.getLogger(__name__)

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


def read_models(run_dir: Path) -> Record:
    """What the models of the last start were; empty before the first.

    Raises:
        ValueError: if the file is damaged.
    """
    path = run_dir / MODELS_FILE
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        for entry in record.values():
            entry["name"], entry["revision"], entry["commit"], entry["files"].items()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error!r}); delete it if the models are those of this run"
        ) from None
    return record


def check_models(run_dir: Path, now: Record) -> None:
    """Refuse models that were changed under the same name since the run began.

    Raises:
        ValueError: naming their files.
    """
    if newest_step(run_dir) and (changed := changed_files(read_models(run_dir), now)):
        raise ValueError(
            f"files of the models are not those that {run_dir} began with: {'; '.join(changed)}. "
            f"Put them back, choose another run_dir, or, where this is meant, delete "
            f"{run_dir / MODELS_FILE}"
        )


def fill_run_folder(config: RunConfig, prepared: Prepared, models: Record) -> None:
    """Write the settings, the student's files and what the models are. After all checks.

    Raises:
        ValueError: if it cannot be written.
    """
    try:
        student = config.run_dir / STUDENT_FOLDER
        save_config(prepared.student, student)
        tokenizer = prepared.vocabulary.tokenizer.hf
        assert tokenizer is not None, "model folders hold Hugging Face tokenizers"
        tokenizer.save_pretrained(student)
        for name in INHERITED_FILES:  # what an earlier start found may be there no more
            (student / name).unlink(missing_ok=True)
        for file in prepared.inherited:
            shutil.copyfile(file, student / file.name)
        replace_file(config.run_dir / MODELS_FILE, json.dumps(models, indent=1) + "\n")
        replace_file(config.run_dir / CONFIG_FILE, dump_config(config))
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


def folder_id(run_dir: Path) -> tuple[int, int]:
    """What a folder that was made anew, or took its name later, does not share with it.

    Raises:
        ValueError: if there is none.
    """
    try:
        found = run_dir.stat()
    except OSError as error:
        raise ValueError(f"run_dir: {run_dir} is not there any more: {error}") from None
    return found.st_dev, found.st_ino

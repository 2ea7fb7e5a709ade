"""How the last start of a run ended, and whether the same command should be started again.

`status.json` in the run's folder. Whoever starts runs cannot rely on exit statuses: torchrun
turns each of them into 1, and what is killed has none.
"""

import contextlib
import fcntl
import json
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from taidscale.checkpoint.folder import finished_checkpoints, step_of
from taidscale.durable import replace_file
from taidscale.file_names import CHECKPOINTS_FOLDER, LOCK_FILE, STATUS_FILE

MAX_STARTS_WITHOUT_PROGRESS = 3
"""Starts in a row that died without a word and without a new checkpoint."""


@dataclass(frozen=True)
class RunStatus:
    """What the last start said of itself."""

    state: Literal["running", "finished", "interrupted", "failed", "to start"]
    """`running` after its end means that it died without a word; after `to start`, which
    `ask_to_start` writes, that it died before it could write anything.
    """
    message: str
    """For people."""
    step: int
    """Optimizer steps of the newest checkpoint when it was written."""
    num_deaths: int = 0
    """Starts in a row, before it, that died with the newest checkpoint being that."""
    host: str = ""
    unix_seconds: float = 0.0

    def write(self, run_dir: Path) -> None:
        """Replace the status, in one go; a full disk is no reason to fail."""
        written = asdict(self) | {"host": socket.gethostname(), "unix_seconds": time.time()}
        with contextlib.suppress(OSError):
            replace_file(run_dir / STATUS_FILE, json.dumps(written, indent=1) + "\n", shared=True)

    @classmethod
    def read(cls, run_dir: Path) -> "RunStatus | None":
        """The last one written; None before the first start."""
        try:
            return cls(**json.loads((run_dir / STATUS_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def status_at_start(run_dir: Path, step: int) -> RunStatus:
    """The status of a start that continues after `step` optimizer steps."""
    before = RunStatus.read(run_dir)
    same = before is not None and before.state in ("running", "to start") and before.step == step
    number = before.num_deaths if before is not None and same else 0
    return RunStatus("running", f"started after step {step}", step, number)


def leave_word(
    run_dir: Path, status: RunStatus, state: Literal["finished", "interrupted", "failed"], why: str
) -> None:
    """Write how a start ended, with the step of the newest checkpoint.

    A start that failed before it was running does not undo that the run is finished.

    Args:
        run_dir: of the run.
        status: with which it started.
        state: how it ended.
        why: for people.
    """
    before = RunStatus.read(run_dir)
    if state != "failed" or before is None or before.state != "finished":
        replace(status, state=state, message=why, step=newest_step(run_dir)).write(run_dir)


def newest_step(run_dir: Path) -> int:
    """Optimizer steps of the newest checkpoint, whole or not; 0 if there is none."""
    return max(map(step_of, finished_checkpoints(run_dir / CHECKPOINTS_FOLDER)), default=0)


def ask_to_start(run_dir: Path, step: int, *, count: bool = True) -> tuple[bool, str]:
    """Whether the same command would go on with the run, and why.

    Args:
        run_dir: of the run, whose last start has ended.
        step: see `newest_step`.
        count: write a yes down, as one more start; of several that ask for the same one, one does.
    """
    status = RunStatus.read(run_dir)
    if status is None and step == 0:
        return False, f"{run_dir} has no {STATUS_FILE}: the run did not get so far as to start"
    status = status or RunStatus("running", "unreadable", step)
    num_deaths = 0
    if status.state == "to start" and not count:
        return True, status.message
    match status.state:
        case "finished":
            return False, f"finished: {status.message}"
        case "failed":
            return False, f"failed, and would fail again: {status.message}"
        case "interrupted":
            why = f"interrupted: {status.message}"
        case "running" | "to start":
            why = f"the last start, after step {status.step}, ended without a word"
            if status.step == step:
                num_deaths = status.num_deaths + 1
    if num_deaths >= MAX_STARTS_WITHOUT_PROGRESS:
        return False, (
            f"{num_deaths} starts in a row ended without a word and without a checkpoint after "
            f"step {step}; read their logs, and delete {run_dir / STATUS_FILE} to go on"
        )
    if count:
        RunStatus("to start", why, step, num_deaths).write(run_dir)
    return True, why


def in_use(run_dir: Path) -> bool:
    """Whether a process on any node holds the lock on the run's folder."""
    try:
        with (run_dir / LOCK_FILE).open("r+", encoding="utf-8") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # no lock yet, or no locks on this file system
        return False
    return False

"""The checkpoints of a run as one process sees them: what each name means, and what may go.

step-00000100            was whole when it got this name
step-00000100.partial    is being written or deleted; of no use to anyone after a crash
step-00000100.damaged    was found not to be whole any more, and passed over
step-00000100.replaced   gives way to another of the same step at this moment
"""

import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from taidscale.checkpoint.manifest import FormatError, damage
from taidscale.durable import flush_to_disk, rename

log = logging.getLogger(__name__)

_PARTIAL, _DAMAGED, _REPLACED = ".partial", ".damaged", ".replaced"


def checkpoint_of(folder: Path, step: int) -> Path:
    """Where the checkpoint after so many steps is, or will be."""
    return folder / f"step-{step:08d}"


def partial_of(checkpoint: Path) -> Path:
    """Where it is written."""
    return checkpoint.with_name(checkpoint.name + _PARTIAL)


def step_of(checkpoint: Path) -> int:
    """The optimizer steps after which a finished one was written."""
    return int(checkpoint.name.removeprefix("step-"))


def finished_checkpoints(folder: Path) -> list[Path]:
    """Those that have their final name, by step, the newest last."""
    found = (path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))
    return sorted(found, key=step_of)


def damaged_checkpoints(folder: Path) -> list[Path]:
    """Those that were passed over."""
    return sorted(folder.glob(f"step-*{_DAMAGED}"))


def latest_checkpoint(folder: Path, *, hashes: bool = False) -> Path | None:
    """The newest checkpoint in `folder` that is whole; a damaged one is skipped, loudly.

    Args:
        folder: of all checkpoints.
        hashes: read every file of it; else only sizes are compared.

    Raises:
        FormatError: if it, or a newer one, is of a format that cannot be read.
    """
    for checkpoint in reversed(finished_checkpoints(folder)):
        problem = damage(checkpoint, hashes=hashes)
        if problem is None:
            return checkpoint
        log.warning("checkpoint %s is damaged and is skipped: %s", checkpoint, problem)
    return None


def choose_checkpoint(folder: Path, step: int | None, *, hashes: bool = False) -> Path:
    """The checkpoint after `step` optimizer steps, or the newest whole one for None.

    Args:
        folder: of all checkpoints.
        step: that a person asks for.
        hashes: read every file of it; else only sizes are compared.

    Raises:
        ValueError: if there is none, or that one is not whole; it lists those that are there.
    """
    if step is None:
        newest = latest_checkpoint(folder, hashes=hashes)
        if newest is None:
            raise ValueError(f"{folder} holds no complete checkpoint yet")
        return newest
    wanted = checkpoint_of(folder, step)
    found = finished_checkpoints(folder)
    if wanted not in found:
        steps = ", ".join(str(step_of(checkpoint)) for checkpoint in found) or "none"
        raise ValueError(f"{folder} holds no checkpoint of step {step}; there are: {steps}")
    if problem := damage(wanted, hashes=hashes):
        raise ValueError(f"{wanted} is damaged: {problem}")
    return wanted


def make_visible(checkpoint: Path) -> None:
    """Give one that is written, manifest included, its final name.

    Raises:
        OSError: if it is not whole.
    """
    partial = partial_of(checkpoint)
    for path in (*partial.rglob("*"), partial):
        if path.is_dir():  # a folder's content is names; the writers of files have flushed theirs
            flush_to_disk(path)
    if problem := damage(partial):
        raise OSError(problem)
    if checkpoint.exists():
        rename(checkpoint, checkpoint.with_name(checkpoint.name + _REPLACED))
    rename(partial, checkpoint)
    finish_replacements(checkpoint.parent)


def finish_replacements(folder: Path) -> None:
    """Delete what was replaced; put it back where the process died in between."""
    for replaced in folder.glob(f"step-*{_REPLACED}"):
        checkpoint = replaced.with_name(replaced.name.removesuffix(_REPLACED))
        if checkpoint.exists():
            shutil.rmtree(replaced)
        else:
            rename(replaced, checkpoint)


def remove_unfinished(folder: Path) -> None:
    """What crashes have left behind."""
    for partial in folder.glob(f"*{_PARTIAL}"):
        shutil.rmtree(partial)


def set_aside(checkpoints: Iterable[Path]) -> None:
    """Take damaged ones out of the row, so that they cannot be confused with later ones."""
    for checkpoint in checkpoints:
        damaged = checkpoint.with_name(checkpoint.name + _DAMAGED)
        if damaged.exists():
            shutil.rmtree(damaged)
        rename(checkpoint, damaged)


def give_up_old(folder: Path, keep_last: int, keep_every_steps: int | None) -> list[Path]:
    """Take away the names of those that need not be kept: half of one shall never count as one.

    Returns:
        The folders, under new names, to be deleted.
    """
    given_up, kept = [], 0
    for old in reversed(finished_checkpoints(folder)):
        if kept < keep_last:  # nobody looks at the files of older ones, which may be many
            kept += _is_whole(old)
        elif keep_every_steps is None or step_of(old) % keep_every_steps:
            given_up.append(old.with_name(f"{old.name}.old{_PARTIAL}"))
            rename(old, given_up[-1])
    return given_up


def _is_whole(checkpoint: Path) -> bool:
    try:
        return damage(checkpoint) is None
    except FormatError:  # a later version wrote it, and this one does not count on it
        return False


def delete(folders: list[Path]) -> None:
    """What `give_up_old` returned. What cannot be deleted now is left to `remove_unfinished`."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)

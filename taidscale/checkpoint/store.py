"""Which checkpoints a run has, and how one becomes visible.

A checkpoint is a folder `step-00000100`. It is written as `step-00000100.partial`, compared
with its manifest, flushed to the disk and renamed: what carries the final name is whole.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taidscale.parallel.grid import AgreedError, Grid

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_PARTIAL = ".partial"


class CheckpointError(AgreedError):
    """A checkpoint that could not be written, or does not fit this run."""


class CheckpointStore:
    """The checkpoints of one run, on a file system that all nodes share."""

    def __init__(self, folder: Path, grid: Grid, keep_last: int) -> None:
        self._folder, self._grid, self._keep_last = folder, grid, keep_last

    def save(
        self, step: int, write: Callable[[Path], None], facts: dict[str, Any], num_bytes: int
    ) -> Path:
        """Write a checkpoint. All ranks call it together.

        Args:
            step: optimizer steps done.
            write: puts this rank's files into a folder; raises OSError if it cannot.
            facts: what `load_facts` shall return; JSON.
            num_bytes: what the files of all ranks will take, for a look at the free space.

        Returns:
            The folder.

        Raises:
            CheckpointError: on every rank, if any of them could not write. Earlier checkpoints
                are untouched and the unfinished one is removed.

        Cost: four all-gathers of short strings, besides what `write` does.
        """
        final = self._folder / f"step-{step:08d}"
        partial = final.with_name(final.name + _PARTIAL)
        manifest = {**facts, "world_size": self._grid.world_size}
        for act in (
            lambda: self._prepare(partial, num_bytes),
            lambda: self._see(partial),
            lambda: write(partial),
            lambda: self._publish(partial, final, manifest),
        ):
            self._together(act, partial)
        return final

    def latest(self) -> Path | None:
        """See `latest_checkpoint`. The first rank looks, so that all ranks take the same.

        Cost: one broadcast of a short string.
        """
        found = latest_checkpoint(self._folder) if self._grid.is_first else None
        return self._grid.as_on_first(found)

    def load_facts(self, folder: Path) -> dict[str, Any]:
        """What was saved beside the weights.

        Raises:
            CheckpointError: if another number of ranks wrote it.
        """
        facts = read_facts(folder)
        if facts["world_size"] != self._grid.world_size:
            raise CheckpointError(
                f"checkpoint {folder} was written by {facts['world_size']} ranks, this run has "
                f"{self._grid.world_size}; start it on {facts['world_size']} ranks"
            )
        return facts

    def _prepare(self, partial: Path, num_bytes: int) -> None:
        if not self._grid.is_first:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        for left_behind in self._folder.glob(f"step-*{_PARTIAL}"):
            shutil.rmtree(left_behind)
        free = shutil.disk_usage(self._folder).free
        if free < num_bytes:
            raise OSError(
                f"it needs about {num_bytes / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free in "
                f"{self._folder}"
            )
        partial.mkdir()

    def _publish(self, partial: Path, final: Path, manifest: dict[str, Any]) -> None:
        if not self._grid.is_first:
            return
        files = {
            str(path.relative_to(partial)): path.stat().st_size
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        (partial / MANIFEST).write_text(json.dumps({**manifest, "files": files}, indent=1))
        for name in [*files, MANIFEST]:
            _flush(partial / name)
        if problem := damage(partial):
            raise OSError(problem)
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
        _flush(self._folder)
        whole = [path for path in _finished(self._folder) if damage(path) is None]
        for old in whole[: -self._keep_last]:
            shutil.rmtree(old, ignore_errors=True)

    def _see(self, partial: Path) -> None:
        if not partial.is_dir():
            raise OSError(
                f"rank {self._grid.rank} does not see {partial}: run_dir must lie on a file "
                "system that all nodes share"
            )

    def _together(self, act: Callable[[], None], partial: Path) -> None:
        """Do something on every rank; go on only if all of them succeeded."""
        problem = None
        try:
            act()
        except Exception as error:  # whatever it is, the other ranks must hear of it
            problem = str(error) if isinstance(error, OSError) else repr(error)
        problem = self._grid.first_problem(problem)
        if problem is None:
            return
        if self._grid.is_first:
            shutil.rmtree(partial, ignore_errors=True)
        last = self.latest()
        raise CheckpointError(
            f"could not write checkpoint {partial.name.removesuffix(_PARTIAL)}: {problem}. "
            + (f"The last good one is {last}. " if last else "There is none before it. ")
            + "Free space or choose another run_dir, then start the same command again"
        )


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that is whole; a damaged one is skipped, loudly."""
    for checkpoint in reversed(_finished(folder)):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint
        log.warning("checkpoint %s is damaged and is skipped: %s", checkpoint, problem)
    return None


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """What was saved beside the weights."""
    facts: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text())
    return facts


def damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, if anything."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or unreadable"
    for name, size in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def _finished(folder: Path) -> list[Path]:
    """Checkpoints by step, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != _PARTIAL)


def _flush(path: Path) -> None:
    """Wait until a file's, or folder's, content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

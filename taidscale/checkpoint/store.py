"""How the ranks of a run write checkpoints together, and find the newest that is whole.

A checkpoint is written aside, read back, listed with sizes and hashes in its manifest, flushed
to the disk and renamed. In the background, the ranks copy their state into host memory between
two steps, and a thread of each writes the copy while training goes on. (DeepSpeed's own
`DecoupledCheckpointEngine` hands the live tensors, which the next step changes, to a process of
its own; once that has died, its `save` returns as if it had saved.)
"""

import contextlib
import logging
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taidscale.checkpoint.folder import (
    checkpoint_of,
    delete,
    finish_replacements,
    finished_checkpoints,
    give_up_old,
    make_visible,
    partial_of,
    remove_unfinished,
    set_aside,
    step_of,
)
from taidscale.checkpoint.manifest import (
    MANIFEST,
    check_format,
    file_damage,
    read_facts,
    write_manifest,
)
from taidscale.checkpoint.writing import HostMemory, RankFiles
from taidscale.config.schema import CheckpointConfig
from taidscale.parallel.agreement import on_first, together
from taidscale.parallel.grid import AgreedError, Grid

log = logging.getLogger(__name__)

Put = Callable[[Any, Path], None]
"""As `torch.save`."""


class CheckpointError(AgreedError):
    """A checkpoint that could not be written, or does not fit this run."""


@dataclass
class _Save:
    """A checkpoint that is not visible yet: this rank's part of it."""

    checkpoint: Path
    facts: dict[str, Any]
    files: RankFiles
    thread: threading.Thread | None = None
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    failure: Exception | None = None

    def finish(self) -> None:
        try:
            self.entries = self.files.finish()
        except Exception as error:  # whatever it is, the other ranks must hear of it
            self.failure = error

    def result(self) -> dict[str, dict[str, Any]]:
        """What the manifest says of this rank's files, once they are written."""
        if self.thread is None:
            self.finish()
        else:
            self.thread.join()
        if self.failure is not None:
            raise self.failure
        return self.entries


class CheckpointStore:
    """The checkpoints of one run, on a file system that all nodes share."""

    def __init__(self, folder: Path, grid: Grid, config: CheckpointConfig) -> None:
        self._folder, self._grid, self._config = folder, grid, config
        self._memory = HostMemory() if config.write == "background" else None
        self._save: _Save | None = None
        self._deletion: threading.Thread | None = None
        self.last: Path | None = None
        """The newest checkpoint that this process has found whole, or made visible."""

    @property
    def pending(self) -> bool:
        """Whether a save was begun and not published; equal on all ranks."""
        return self._save is not None

    @property
    def busy(self) -> bool:
        """Whether this rank is still writing its part of it, so that `publish` would wait."""
        thread = None if self._save is None else self._save.thread
        return thread is not None and thread.is_alive()

    def begin(
        self, step: int, save: Callable[[Path, Put], None], facts: dict[str, Any], num_bytes: int
    ) -> None:
        """Take a copy of the state and begin to write it. All ranks call it together.

        One that is pending is published first. Without enough host memory for the copy, files
        are written before this returns; where `checkpoint.write` is "blocking", all of them are,
        and the checkpoint is published.

        Args:
            step: optimizer steps done.
            save: calls its second argument for each file of this rank, in the folder that is its
                first; raises OSError if it cannot.
            facts: what `read_facts` shall return; JSON.
            num_bytes: what the files of all ranks will take, for a look at the free space.

        Raises:
            CheckpointError: on every rank, if any of them could not write. Earlier checkpoints
                are untouched and the unfinished one is removed.

        Cost: three all-gathers of short strings and a broadcast, besides what `save` does and that
        of `publish`.
        """
        self.publish()
        checkpoint = checkpoint_of(self._folder, step)
        partial = partial_of(checkpoint)
        files = RankFiles(partial, self._grid.rank, self._memory)
        facts = {**facts, "step": step, "world_size": self._grid.world_size}
        begun = _Save(checkpoint, facts, files)
        with self._undone_on_failure(begun):
            on_first(self._grid, lambda: self._prepare(partial, num_bytes))
            together(self._grid, lambda: self._see(partial))
            together(self._grid, lambda: save(partial, files.put))
        self._save = begun
        if self._memory is None:
            self.publish()
            return
        # A daemon: a process that ends for another reason shall not wait for it.
        begun.thread = threading.Thread(target=begun.finish, name="checkpoint", daemon=True)
        begun.thread.start()

    def publish(self) -> None:
        """Wait for all ranks' parts, then make the pending checkpoint visible, if there is one.

        All ranks call it together. Afterwards those are deleted that need not be kept.

        Raises:
            CheckpointError: as `begin`.

        Cost: one all-gather of a short text a file, two of short strings, and a broadcast.
        """
        if self._save is None:
            return
        save, self._save = self._save, None
        with self._undone_on_failure(save):
            parts = self._grid.gather(together(self._grid, save.result))
            files = {name: entry for entries in parts for name, entry in entries.items()}
            on_first(self._grid, lambda: self._finish(save, files))
        self.last = save.checkpoint

    def latest(self) -> Path | None:
        """The newest checkpoint that is whole; the ranks read all of its files to know it.

        All ranks call it together; one that is pending is published first. One that is damaged
        is passed over with a warning, and renamed once a whole one is found.

        Returns:
            None if no checkpoint was ever finished.

        Raises:
            AgreedError: if there are checkpoints and none is whole, the ranks do not see the same,
                one is of another format, or the first rank cannot tidy up.

        Cost: three all-gathers of short strings a checkpoint. A rank reads the files of the
        ranks whose number is its own modulo the number of ranks: at the same number its own,
        which it reads again when it loads them.
        """
        self.publish()
        steps = on_first(self._grid, self._tidied_steps)
        damaged: dict[Path, str] = {}
        for checkpoint in (checkpoint_of(self._folder, step) for step in reversed(steps)):
            problem = self._damage(checkpoint)
            if problem is None:
                on_first(self._grid, lambda: set_aside(list(damaged)))
                self.last = checkpoint
                return checkpoint
            damaged[checkpoint] = problem
            log.warning("checkpoint %s is damaged and is skipped: %s", checkpoint, problem)
        if damaged:
            reasons = "; ".join(f"{path.name}: {reason}" for path, reason in damaged.items())
            raise CheckpointError(
                f"none of the checkpoints in {self._folder} is whole ({reasons}). Put back a copy "
                "of one, or choose another run_dir to start anew"
            )
        return None

    def _prepare(self, partial: Path, num_bytes: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._tidy()
        free = shutil.disk_usage(self._folder).free
        if free < num_bytes:
            raise OSError(
                f"it needs about {num_bytes / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free in "
                f"{self._folder}"
            )
        partial.mkdir()

    def _see(self, partial: Path) -> None:
        if not partial.is_dir():
            raise OSError(
                f"rank {self._grid.rank} does not see {partial}: run_dir must lie on a file "
                "system that all nodes share"
            )

    def _finish(self, save: _Save, files: dict[str, dict[str, Any]]) -> None:
        write_manifest(partial_of(save.checkpoint), save.facts, files)
        make_visible(save.checkpoint)
        old = give_up_old(self._folder, self._config.keep_last, self._config.keep_every_steps)
        # It may take seconds, for which nobody needs to wait but the end of the process.
        self._deletion = threading.Thread(target=delete, args=[old])
        self._deletion.start()

    def _tidy(self) -> None:
        if self._deletion is not None:
            self._deletion.join()
        finish_replacements(self._folder)
        remove_unfinished(self._folder)

    def _tidied_steps(self) -> list[int]:
        self._tidy()
        found = finished_checkpoints(self._folder)
        for checkpoint in found:
            check_format(checkpoint)
        return [step_of(path) for path in found]

    def _damage(self, checkpoint: Path) -> str | None:
        """What is wrong with a checkpoint, equal on all ranks.

        Raises:
            CheckpointError: if a rank reads something else than the first one.
        """
        name, problem = MANIFEST, None
        try:
            files = read_facts(checkpoint)["files"]
        except ValueError as error:
            problem, files = str(error), {}
        for own, entry in files.items():
            if problem is None and entry["rank"] % self._grid.world_size == self._grid.rank:
                name, problem = own, file_damage(checkpoint, own, entry, hashes=True)
        gathered = self._grid.gather((name, problem, socket.gethostname()))
        seen = [(rank, *found) for rank, found in enumerate(gathered) if found[1] is not None]
        if not seen:
            return None
        rank, name, problem, host = seen[0]
        as_first = _look_again(checkpoint, name) if self._grid.is_first else None
        if self._grid.as_on_first(as_first) is None:
            raise CheckpointError(
                f"checkpoint {checkpoint} is whole as rank 0 reads it, but rank {rank} on {host} "
                f"says: {problem}. Is run_dir on a file system that all nodes share? Else look at, "
                f"or exclude, {host}"
            )
        return problem

    @contextlib.contextmanager
    def _undone_on_failure(self, save: _Save) -> Iterator[None]:
        """Remove what was written, on all ranks, where one of them failed."""
        try:
            yield
        except Exception as error:
            save.files.discard()
            if self._grid.is_first:
                shutil.rmtree(partial_of(save.checkpoint), ignore_errors=True)
            if not isinstance(error, AgreedError):
                raise
            last = f"The last good one is {self.last}" if self.last else "There is none before it"
            raise CheckpointError(
                f"could not write checkpoint {save.checkpoint.name}: {error}. {last}. Free space "
                "or choose another run_dir, then start the same command again"
            ) from None


def _look_again(checkpoint: Path, name: str) -> str | None:
    """What is wrong with a file, the manifest included."""
    try:
        files = read_facts(checkpoint)["files"]
    except ValueError as error:
        return str(error)
    return None if name == MANIFEST else file_damage(checkpoint, name, files[name], hashes=True)

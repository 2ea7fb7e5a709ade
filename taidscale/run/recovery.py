"""How a run is saved, continued and rolled back.

A checkpoint holds the student, the optimizer and this rank's random state; beside them, in its
manifest, how far the run has come, where it is in the data, and what the schedules remember.
"""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taidscale.checkpoint.description import Description, read_description
from taidscale.checkpoint.store import CheckpointStore
from taidscale.config.load import flat_settings
from taidscale.config.schema import RunConfig
from taidscale.data.loader import TrainingLoader
from taidscale.durable import replace_file
from taidscale.engine.student import Student
from taidscale.file_names import CHECKPOINTS_FOLDER, ROLL_BACKS_FILE
from taidscale.health.memory import WatchMemory
from taidscale.parallel.agreement import on_first, together
from taidscale.parallel.grid import AgreedError, Grid
from taidscale.run.continuation import changed_settings, same_loss, same_signal, was_adaptive
from taidscale.run.folder import folder_id
from taidscale.schedules.interpolation import continued_t, t_schedule
from taidscale.schedules.progress import Progress
from taidscale.versions import installed_versions


@dataclass(frozen=True)
class Continued:
    """From where a run goes on, under the settings of this start."""

    progress: Progress
    health: WatchMemory
    """What `Recovery.save` was given; no losses that cannot be compared with those to come."""
    changes: list[str]
    """What is another than when the checkpoint was written, for people."""
    rolled_back_at: float | None = None
    """Seconds since 1970 of the last roll-back to it."""


class Recovery:
    """What a checkpoint is made of, where it goes, and how a run goes on from one."""

    def __init__(
        self, config: RunConfig, student: Student, loader: TrainingLoader, grid: Grid
    ) -> None:
        """Nothing is read or written yet.

        Raises:
            ValueError: if the run's folder is not there.
        """
        self._config, self._student, self._loader, self._grid = config, student, loader, grid
        self._store = CheckpointStore(config.run_dir / CHECKPOINTS_FOLDER, grid, config.checkpoint)
        self._folder = folder_id(config.run_dir)

    @property
    def busy(self) -> bool:
        """Whether this rank is still writing a checkpoint."""
        return self._store.busy

    def save(self, progress: Progress, health: WatchMemory) -> None:
        """Write a checkpoint from which the run continues exactly. All ranks call it.

        Raises:
            AgreedError: if the run's folder was moved or deleted meanwhile, or see
                `CheckpointStore.begin`.
        """
        on_first(self._grid, self._look_for_folder)
        description = Description(
            progress,
            data=self._loader.state_dict(),
            health=health,
            versions=installed_versions(),
            settings=flat_settings(self._config),
            num_parameters=self._student.num_parameters,
            layout=self._student.layout,
            unix_seconds=time.time(),
        )
        self._store.begin(
            progress.step,
            self._student.save,
            description.to_json(),
            self._student.checkpoint_bytes,
        )

    def finish(self) -> None:
        """Make what is being written visible, if anything is. All ranks call it; it waits.

        Raises:
            AgreedError: see `CheckpointStore.publish`.
        """
        self._store.publish()

    def resume(self) -> Continued | None:
        """Continue from the newest good checkpoint, if there is one. All ranks call it."""
        folder = self._store.latest()
        if folder is None:
            return None
        saved = self._load(folder)
        data, rolled_back_at = saved.data, None
        for undone in self._roll_backs():  # the last one counts
            if undone["step"] == saved.step and undone["from"] == saved.data:
                data, rolled_back_at = undone["to"], undone.get("unix_seconds")
        self._loader.load_state_dict(data)
        return dataclasses.replace(self._continued(saved), rolled_back_at=rolled_back_at)

    def roll_back(self) -> Continued | None:
        """Make the student what it was at the last checkpoint; the data go on from where they are.

        The samples of the steps that are undone do not come again, also not after another start.
        All ranks call it.

        Returns:
            None if there is no checkpoint yet, and nothing has changed.

        Raises:
            AgreedError: if it was done `health.spike.max_roll_backs` times already.
        """
        spike = self._config.health.spike
        most = spike.max_roll_backs if spike else 0
        before = self._roll_backs()
        if len(before) >= most:
            raise AgreedError(
                f"the run was rolled back {most} times already (health.spike.max_roll_backs): a "
                "lower learning_rate.peak or optimizer.gradient_clipping may help; with a larger "
                "max_roll_backs the run goes on as it is"
            )
        folder = self._store.latest()
        if folder is None:
            return None
        saved = self._load(folder)
        undone = {"step": saved.step, "from": saved.data, "to": self._loader.state_dict()}
        undone["unix_seconds"] = time.time()
        if self._grid.is_first:
            replace_file(self._roll_backs_file, json.dumps([*before, undone]))
        return self._continued(saved)

    def _look_for_folder(self) -> None:
        run_dir = self._config.run_dir
        if not run_dir.exists() or folder_id(run_dir) != self._folder:
            raise ValueError(
                f"run_dir: {run_dir} was moved, or deleted, while the run was going on, and what "
                "it has written since with it; put the folder back where it was, and start again"
            )

    def _continued(self, saved: Description) -> Continued:
        """What the settings of this start make of a checkpoint."""
        before, config, progress = saved.settings, self._config, saved.progress
        t_state = continued_t(
            t_schedule(config.loss),
            progress.t_state,
            was_adaptive=was_adaptive(before),
            same_signal=same_signal(before, config),
            step=progress.step,
            total_steps=config.total_steps,
        )
        changes = [
            f"{name} was {was!r} and is {now!r} now"
            for name, was, now in changed_settings(before, config)
        ]
        if t_state.t != progress.t:
            changes.append(f"t was {progress.t:.4f} and is {t_state.t:.4f} now")
        health = saved.health
        if not same_loss(before, config):
            health = dataclasses.replace(health, spikes=None)
        return Continued(dataclasses.replace(progress, t_state=t_state), health, changes)

    def _load(self, folder: Path) -> Description:
        saved = together(self._grid, lambda: read_description(folder))
        self._student.load(folder, saved.layout, saved.step)
        return saved

    @property
    def _roll_backs_file(self) -> Path:
        return self._config.run_dir / ROLL_BACKS_FILE

    def _roll_backs(self) -> list[dict[str, Any]]:
        """The step that the run went back to, and the place in the data from, and to, which.

        Raises:
            AgreedError: if the file is damaged.

        Cost: that of `on_first`.
        """
        return on_first(self._grid, lambda: _read_roll_backs(self._roll_backs_file))


def _read_roll_backs(path: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        for undone in found:
            undone["step"], undone["from"], undone["to"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error!r}). It says behind which samples the run goes on "
            "after its roll-backs: put back a copy, or delete it and let those samples come again"
        ) from None
    return found

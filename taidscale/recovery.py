"""How a run is saved, continued and rolled back.

A checkpoint holds the student, the optimizer and this rank's random state; beside them, in its
manifest, how far the run has come, where it is in the data, and what the schedules remember.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taidscale.checkpoint.manifest import flush_to_disk
from taidscale.checkpoint.store import CheckpointStore
from taidscale.config.load import flat_settings
from taidscale.config.schema import RunConfig
from taidscale.data.loader import TrainingLoader
from taidscale.engine.shards import Layout
from taidscale.engine.student import Student
from taidscale.parallel.grid import AgreedError, Grid
from taidscale.run_folder import installed_versions
from taidscale.schedules.progress import Progress

ROLL_BACKS_FILE = "roll_backs.json"


@dataclass(frozen=True)
class Recovery:
    """What a checkpoint is made of, and where it goes."""

    config: RunConfig
    store: CheckpointStore
    student: Student
    loader: TrainingLoader
    grid: Grid

    def save(self, progress: Progress, health: dict[str, Any]) -> None:
        """Write a checkpoint from which the run continues exactly. All ranks call it."""
        facts = {
            "progress": progress.to_json(),
            "data": self.loader.state_dict(),
            "health": health,
            "versions": installed_versions(),
            "settings": flat_settings(self.config),
            "num_parameters": self.student.num_parameters,
            "layout": dataclasses.asdict(self.student.layout),
        }
        self.store.begin(progress.step, self.student.save, facts, self.student.checkpoint_bytes)

    def resume(self) -> tuple[Progress, dict[str, Any]] | None:
        """Continue from the newest good checkpoint, if there is one. All ranks call it.

        Returns:
            What `save` was given.
        """
        folder = self.store.latest()
        if folder is None:
            return None
        facts = self._load(folder)
        progress, data = Progress.from_json(facts["progress"]), facts["data"]
        for undone in self._roll_backs():  # the last one counts
            if undone["step"] == progress.step and undone["from"] == facts["data"]:
                data = undone["to"]
        self.loader.load_state_dict(data)
        return progress, facts["health"]

    def roll_back(self, most: int) -> tuple[Progress, dict[str, Any]] | None:
        """Make the student what it was at the last checkpoint; the data go on from where they are.

        The samples of the steps that are undone do not come again, also not after another start.
        All ranks call it.

        Args:
            most: how often a run may be rolled back.

        Returns:
            What `save` was given; None if there is no checkpoint yet, and nothing has changed.

        Raises:
            AgreedError: if that was often enough.
        """
        before = self._roll_backs()
        if len(before) >= most:
            raise AgreedError(
                f"the run was rolled back {most} times already (health.spike.max_roll_backs): a "
                "lower learning_rate.peak or optimizer.gradient_clipping may help"
            )
        folder = self.store.latest()
        if folder is None:
            return None
        facts = self._load(folder)
        progress = Progress.from_json(facts["progress"])
        undone = {"step": progress.step, "from": facts["data"], "to": self.loader.state_dict()}
        if self.grid.is_first:
            aside = self._roll_backs_file.with_suffix(".partial")
            aside.write_text(json.dumps([*before, undone]), encoding="utf-8")
            flush_to_disk(aside)
            os.replace(aside, self._roll_backs_file)
        return progress, facts["health"]

    def _load(self, folder: Path) -> dict[str, Any]:
        facts = self.store.load_facts(folder)
        self.student.load(folder, Layout(**facts["layout"]), facts["step"])
        return facts

    @property
    def _roll_backs_file(self) -> Path:
        return self.config.run_dir / ROLL_BACKS_FILE

    def _roll_backs(self) -> list[dict[str, Any]]:
        """The step that the run went back to, and the place in the data from, and to, which.

        Cost: one broadcast of it.
        """
        found: list[dict[str, Any]] = []
        if self.grid.is_first and self._roll_backs_file.exists():
            found = json.loads(self._roll_backs_file.read_text(encoding="utf-8"))
        return self.grid.as_on_first(found)

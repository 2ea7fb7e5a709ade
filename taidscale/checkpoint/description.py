"""What a checkpoint says about itself, beside the student's weights."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from taidscale.checkpoint.folder import finished_checkpoints
from taidscale.checkpoint.manifest import FORMAT, MANIFEST, FormatError, damage, read_facts
from taidscale.health.memory import WatchMemory
from taidscale.parallel.layout import Layout
from taidscale.schedules.progress import Progress


@dataclass(frozen=True)
class Description:
    """The entries of a manifest, but for those that say whether the files are whole."""

    progress: Progress
    data: dict[str, Any]
    """Where the run was in its data: the loader's own."""
    health: WatchMemory
    versions: dict[str, str]
    """Of what a result depends on, by name."""
    settings: dict[str, Any]
    """Those of the start that wrote it, by dotted path."""
    num_parameters: int
    """Of the student."""
    layout: Layout
    """Of the student that was saved."""
    unix_seconds: float
    """When that was, since 1970."""
    format: int = FORMAT
    """By which number a reader knows what these entries mean."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.progress.step

    def to_json(self) -> dict[str, Any]:
        """For the manifest; floats survive JSON exactly."""
        entries = {field.name: getattr(self, field.name) for field in fields(self)}
        typed = {"health": asdict(self.health), "layout": asdict(self.layout)}
        return {**entries, "progress": self.progress.to_json(), **typed}


def read_description(checkpoint: Path) -> Description:
    """What a checkpoint says about itself; its files are not looked at.

    Raises:
        ValueError: if the manifest is missing, damaged, of an unknown format or incomplete.
    """
    try:
        entries = read_facts(checkpoint)
    except FormatError:
        raise
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from None
    try:
        own = {field.name: entries[field.name] for field in fields(Description)}
        own["progress"] = Progress.from_json(own["progress"])
        own["health"], own["layout"] = WatchMemory(**own["health"]), Layout(**own["layout"])
        return Description(**own)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{checkpoint / MANIFEST} does not say what a run continues from ({error!r}): this is "
            "not a checkpoint of TAIDScale; take another one"
        ) from None


def newest_description(checkpoints: Path) -> Description | None:
    """That of the newest checkpoint whose files have the right sizes; None if there is none.

    Raises:
        ValueError: if it, or a newer one, is of an unknown format, or says too little.
    """
    for checkpoint in reversed(finished_checkpoints(checkpoints)):
        if damage(checkpoint) is None:
            return read_description(checkpoint)
    return None

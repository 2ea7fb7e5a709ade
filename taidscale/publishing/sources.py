"""Which models a run's student was made from, and what their own cards say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from taidscale.config.schema import PretrainedInit, RunConfig, TeacherLayersInit
from taidscale.home import at_home
from taidscale.models.families import check_hub_id
from taidscale.publishing.card import Card
from taidscale.publishing.stages import Part, short


@dataclass(frozen=True)
class Source:
    """A model that the student was made from."""

    role: str
    name: str
    metadata: dict[str, Any]
    """Of its own card; empty if it is not known."""


def find_sources(config: RunConfig, parts: tuple[Part, ...]) -> list[Source]:
    """The student's first weights, and the teachers that it learnt from; none that only judged it.

    Args:
        config: Of the run.
        parts: What it was told, and from which step on.
    """
    init, roles = config.student.init, dict[str, str]()
    if isinstance(init, PretrainedInit):
        roles[init.model] = "student's first weights"
    taught = [part for part in parts if part.learnt_from]
    several = len({part.teacher for part in taught}) > 1
    for part in taught:
        assert part.teacher is not None
        before = f"{roles[part.teacher]}, and " if part.teacher in roles else ""
        after = f" from step {part.from_step + 1:,} on" if several else ""
        roles[part.teacher] = f"{before}teacher{after}"
    if isinstance(init, TeacherLayersInit) and (origin := parts[0].teacher):
        layers = f"{len(init.layers)} of its layers as the student's first weights"
        roles[origin] = f"{roles[origin]}, and {layers}" if origin in roles else layers
    revisions = {init.model: init.revision} if isinstance(init, PretrainedInit) else {}
    if config.teacher is not None:
        revisions.setdefault(config.teacher.model, config.teacher.revision)
    return [
        Source(role, short(model), _card_of(model, revisions.get(model)))
        for model, role in roles.items()
    ]


def _card_of(model: str, revision: str | None) -> dict[str, Any]:
    """The metadata of a model's own card; a few kilobytes from the Hub, where it is not here."""
    folder = at_home(model)
    try:
        path = folder / "README.md"
        if not folder.is_dir():
            check_hub_id(model, "model")
            path = Path(hf_hub_download(model, "README.md", revision=revision))
        return Card.parse(path.read_text(encoding="utf-8"), str(path)).metadata
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        return {}

"""How a student came about: the runs that it went through, one after the other.

An exported folder carries them in `lineage.json`, and a run that starts from such a folder hands
them on: what comes out at the end names its first weights and all of its teachers.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from taidscale.config.schema import FreshInit, PretrainedInit, RunConfig
from taidscale.home import at_home
from taidscale.schedules.progress import Progress

_MOST = 100
_ALONE = "cross_entropy"
"""The objective without a teacher; a run may have one for its evaluations all the same."""
Name = Annotated[str, Field(max_length=300, pattern=r"^[^\r\n]+$")]
"""Of a model, on one line of a card."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(_Entry):
    """Steps of a run in which neither the objective nor the teacher changed."""

    from_step: NonNegativeInt
    """Optimizer steps done before the first of them."""
    objective: Name
    teacher: Name | None

    @property
    def learnt_from(self) -> str | None:
        """The teacher, where the objective asks it."""
        return None if self.objective == _ALONE else self.teacher


class Stage(_Entry):
    """One run, up to the checkpoint that was exported."""

    first_weights: Name | None
    """The model whose weights the student had; None where they were random."""
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]
    num_steps: NonNegativeInt
    num_tokens: NonNegativeInt
    data: tuple[Name, ...]
    """Names of the streams."""

    @property
    def teachers(self) -> list[str]:
        """Those that it learnt from, in order."""
        return list(dict.fromkeys(part.learnt_from for part in self.parts if part.learnt_from))


class _Lineage(_Entry):
    format: Literal[1] = 1
    stages: Annotated[tuple[Stage, ...], Field(max_length=_MOST)]


def read_stages(path: Path) -> tuple[Stage, ...]:
    """The stages in a `lineage.json`, the first one first; none where there is no file.

    Raises:
        ValueError: It is damaged.
    """
    if not path.is_file():
        return ()
    try:
        return _Lineage.model_validate_json(path.read_bytes()).stages
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(
            f"{path} does not say what the student was before this run ({where}: {first['msg']}); "
            "put it right, or remove it: the card then names no earlier run"
        ) from None


def stages_file(stages: tuple[Stage, ...]) -> bytes:
    """The content of `lineage.json`."""
    text = _Lineage(stages=stages).model_dump_json(indent=1)
    return (text + "\n").encode()


def read_parts(events: Path, config: RunConfig, step: int) -> tuple[Part, ...]:
    """What a run was told at each start that its checkpoint depends on.

    Args:
        events: The run's `events.jsonl`; without it, or with one of an older version, the
            settings of the checkpoint hold for all of its steps.
        config: The settings of the checkpoint.
        step: Optimizer steps of the checkpoint.
    """
    parts: list[Part] = []
    for start in _starts(events):
        if start.from_step >= max(step, 1):
            continue
        # It begins at a checkpoint: whatever was done beyond is done again.
        parts = [part for part in parts if part.from_step < start.from_step]
        if not parts or parts[-1] != start.model_copy(update={"from_step": parts[-1].from_step}):
            parts.append(start)
    teacher = config.teacher.model if config.teacher else None
    return tuple(parts) or (Part(from_step=0, objective=config.loss.objective, teacher=teacher),)


def stage_of(config: RunConfig, parts: tuple[Part, ...], progress: Progress) -> Stage:
    """The run itself as a stage, without the paths of this machine."""
    init = config.student.init
    match init:
        case PretrainedInit():
            weights: str | None = init.model
        case FreshInit():
            weights = None
        case _:
            weights = parts[0].teacher
    return Stage(
        first_weights=weights and short(weights),
        parts=tuple(
            part.model_copy(update={"teacher": part.teacher and short(part.teacher)})
            for part in parts
        ),
        num_steps=progress.step,
        num_tokens=progress.num_tokens,
        data=tuple(stream.stream_name for stream in config.data.streams),
    )


def short(model: str) -> str:
    """A folder's path is nobody else's business."""
    folder = at_home(model)
    return folder.name if folder.is_dir() or folder.is_absolute() else model


def _starts(events: Path) -> list[Part]:
    """Those in the file that say what they were told; a line that a crash cut says nothing."""
    if not events.is_file():
        return []
    found = []
    for line in events.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            if entry["event"] == "start":
                found.append(
                    Part(
                        from_step=entry["step"],
                        objective=entry["objective"],
                        teacher=entry.get("teacher"),
                    )
                )
        except (ValueError, KeyError, TypeError):
            continue
    return found

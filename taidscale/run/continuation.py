"""May this start go on with what the run's checkpoints hold, and what is another since then?

What a setting says after a start from a checkpoint is what happens, or the start is refused:

refused     what fixes the order of the data, and where the student comes from; `total_steps`
            below the newest checkpoint; teacher or student with other content (`run.folder`)
converted   how the student is spread: number of ranks, `zero`, `precision`
honoured    all others, from the next step on. Schedules are functions of the step and of the
            settings, as if they had always been so; `schedules.interpolation` says what that
            means for t. An event of each change goes to `events.jsonl`.
"""

from pathlib import Path
from typing import Any

from taidscale.checkpoint.description import newest_description
from taidscale.checkpoint.folder import finished_checkpoints, step_of
from taidscale.config.load import flat_settings
from taidscale.config.schema import RunConfig
from taidscale.data.loader import TrainingLoader

REFUSED = (
    "seed",
    "student.init",
    "data.shuffle",
    "data.shuffle_algo",
    "data.shuffle_block_size",
    "data.num_canonical_nodes",
)
"""Settings, and sections of them, that must stay as they are."""

_LOSS = ("loss", "teacher.model", "teacher.revision", "data.attention", "seq_len")
"""On which it depends how high a loss is, besides the mix, which phases change too."""
_ONLY_SPEED = ("loss.logits_mib", "loss.chunk_tokens", "loss.kernels")
_ONLY_T = ("loss.t",)
"""Not what the adaptive t follows, but how it does."""


def check_continuation(config: RunConfig, checkpoints: Path, loader: TrainingLoader) -> None:
    """Refuse settings and data that a run's checkpoints cannot follow. Nothing is loaded.

    Args:
        config: the run.
        checkpoints: the folder of all of them.
        loader: of its training data.

    Raises:
        ValueError: naming what does not fit.
    """
    run_dir = config.run_dir
    newest = max(map(step_of, finished_checkpoints(checkpoints)), default=0)
    if config.total_steps < newest:
        raise ValueError(
            f"total_steps: {config.total_steps} is less than the {newest} steps that {run_dir} has "
            f"done; set {newest} or more, or choose another run_dir"
        )
    saved = newest_description(checkpoints)
    if saved is None:
        return
    wrong = [
        f"{name} was {was!r} and is {now!r} now"
        for name, was, now in changed_settings(saved.settings, config)
        if _within(name, REFUSED)
    ]
    if wrong:
        raise ValueError(
            f"{run_dir} has checkpoints that do not fit: {'; '.join(wrong)}. Put it back, or "
            "choose another run_dir"
        )
    loader.check_state(saved.data)


def changed_settings(before: dict[str, Any], config: RunConfig) -> list[tuple[str, Any, Any]]:
    """Each setting that is another now: its dotted path, what it was, and what it is.

    Args:
        before: those of a checkpoint, by dotted path.
        config: those of this start.
    """
    now = flat_settings(config)
    names = sorted(before.keys() | now.keys())
    return [(n, before.get(n), now.get(n)) for n in names if before.get(n) != now.get(n)]


def same_loss(before: dict[str, Any], config: RunConfig) -> bool:
    """Whether losses can still be compared with those before."""
    return not any(_is_of_loss(name) for name, _, _ in changed_settings(before, config))


def same_signal(before: dict[str, Any], config: RunConfig) -> bool:
    """Whether what the adaptive t follows is still measured in the same way."""
    changed = [name for name, _, _ in changed_settings(before, config) if _is_of_loss(name)]
    return all(_within(name, _ONLY_T) and name != "loss.t.signal" for name in changed)


def was_adaptive(before: dict[str, Any]) -> bool:
    """Whether t followed the adaptive rule."""
    return before.get("loss.t.schedule") == "adaptive"


def _is_of_loss(name: str) -> bool:
    return _within(name, _LOSS) and not _within(name, _ONLY_SPEED)


def _within(name: str, sections: tuple[str, ...]) -> bool:
    return any(name == section or name.startswith(f"{section}.") for section in sections)

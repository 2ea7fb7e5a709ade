"""What `taidscale show` does: it looks at checkpoints and prints what they hold."""

import json
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from taidscale.checkpoint.description import Description, read_description
from taidscale.checkpoint.folder import damaged_checkpoints, finished_checkpoints
from taidscale.checkpoint.manifest import (
    MANIFEST,
    FormatError,
    damage,
    file_damage,
    read_facts,
)
from taidscale.config.load import flat_settings, load_config
from taidscale.file_names import CHECKPOINTS_FOLDER, CONFIG_FILE
from taidscale.versions import installed_versions


@dataclass(frozen=True)
class Settings:
    """Those of a run now."""

    path: Path
    values: dict[str, Any]
    """By their dotted names, as JSON has them."""


def show(options: Namespace) -> list[str]:
    """Print everything.

    Returns:
        What is damaged.
    """
    folder: Path = options.folder.absolute()
    is_checkpoint = (folder / MANIFEST).exists() or (folder.exists() and folder.match("step-*"))
    run_dir = folder.parents[1] if is_checkpoint else folder
    now = read_settings(options.config, run_dir / CONFIG_FILE)
    if is_checkpoint:
        if problem := find_damage(folder, options.verify):
            return [f"{folder}: {problem}"]
        print_details(folder, now, verified=options.verify)
        return []
    checkpoints = folder / CHECKPOINTS_FOLDER
    if not checkpoints.is_dir():
        raise ValueError(f"{folder} is neither a run with checkpoints nor a checkpoint")
    found = finished_checkpoints(checkpoints)
    if not found:
        raise ValueError(f"{checkpoints} holds no finished checkpoint yet")
    problems = {path: find_damage(path, options.verify) for path in found}
    print_table([row(path, problem) for path, problem in problems.items()])
    for path in damaged_checkpoints(checkpoints):
        print(f"{path.name} was damaged when the run was started, and was passed over")
    whole = [path for path, problem in problems.items() if problem is None]
    if whole:
        print()
        print_details(whole[-1], now, verified=options.verify)
    return [f"{path}: {problem}" for path, problem in problems.items() if problem is not None]


def find_damage(checkpoint: Path, verify: bool) -> str | None:
    """What is wrong with it, if anything; with a bar, where everything is read."""
    try:
        problem = damage(checkpoint)
    except FormatError as error:
        return str(error)
    if problem or not verify:
        return problem
    files = read_facts(checkpoint)["files"]
    num_bytes = sum(entry["bytes"] for entry in files.values())
    with tqdm(total=num_bytes, unit="B", unit_scale=True, desc=checkpoint.name) as bar:
        for name, entry in files.items():
            if problem := file_damage(checkpoint, name, entry, hashes=True):
                return problem
            bar.update(entry["bytes"])
    return None


def row(checkpoint: Path, problem: str | None) -> dict[str, str]:
    """A checkpoint's cells by column."""
    try:
        saved = read_description(checkpoint)
    except FormatError:
        return {"checkpoint": checkpoint.name, "files": "another format"}
    except ValueError:
        return {"checkpoint": checkpoint.name, "files": "damaged"}
    return {
        "checkpoint": checkpoint.name,
        "tokens": f"{saved.progress.num_tokens:,}",
        "t": f"{saved.progress.t:.4f}",
        "age": age(saved.unix_seconds),
        "written by": written_by(saved),
        "MB": f"{sum(sizes(checkpoint)) / 1e6:,.1f}",
        "files": "whole" if problem is None else "damaged",
    }


def print_table(rows: list[dict[str, str]]) -> None:
    """The names to the left, the rest to the right."""
    columns = list(dict.fromkeys(name for cells in rows for name in cells))
    rows = [dict(zip(columns, columns, strict=True)), *rows]
    widths = {name: max(len(cells.get(name, "")) for cells in rows) for name in columns}
    for cells in rows:
        first, *others = (cells.get(name, "").rjust(widths[name]) for name in columns)
        print("  ".join([first.strip().ljust(widths[columns[0]]), *others]))


def print_details(checkpoint: Path, now: Settings | None, *, verified: bool) -> None:
    """What its manifest says, and how that differs from what is here now."""
    saved, installed, found = read_description(checkpoint), installed_versions(), sizes(checkpoint)
    saved_at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(saved.unix_seconds))
    whole = "all hashes are right" if verified else "all sizes are right (hashes: --verify)"
    lines = {
        "checkpoint": str(checkpoint),
        "step": f"{saved.step:,} of {saved.settings['total_steps']:,}",
        "tokens": f"{saved.progress.num_tokens:,}",
        "t": f"{saved.progress.t:.6f}",
        "saved": f"{saved_at}, {age(saved.unix_seconds)} ago",
        "written by": f"{written_by(saved)}, {saved.layout.precision}",
        "parameters": f"{saved.num_parameters:,}",
        "files": f"{len(found)}, {sum(found) / 1e6:,.1f} MB; {whole}",
        "versions": ", ".join(
            f"{name} {version}" + ("" if version == now else f" (now {now})")
            for name, version in saved.versions.items()
            for now in [installed.get(name)]
        ),
    }
    for name, value in lines.items():
        print(f"{name:<10}  {value}")
    if now is None:
        return
    before, after = saved.settings, now.values
    changed = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    print(f"settings    {'differ from' if changed else 'are those of'} {now.path}")
    for name in changed:
        print(f"  {name}: {before.get(name)!r}, now {after.get(name)!r}")


def read_settings(given: str | None, default: Path) -> Settings | None:
    """Those to compare with; None if none are given and the run's are not there."""
    if given is None and not default.is_file():
        return None
    path = default if given is None else Path(given)
    return Settings(path, json.loads(json.dumps(flat_settings(load_config(path)))))


def written_by(saved: Description) -> str:
    """The ranks, and how the student was spread over them."""
    layout = saved.layout
    offload = ", optimizer on the host" if layout.offload_optimizer else ""
    return f"{layout.world_size:,} ranks, ZeRO-{layout.stage}{offload}"


def sizes(checkpoint: Path) -> list[int]:
    """Of each of its files, in bytes."""
    return [entry["bytes"] for entry in read_facts(checkpoint)["files"].values()]


def age(unix_seconds: float) -> str:
    """How long ago it was saved, in one unit."""
    seconds = time.time() - unix_seconds
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{max(seconds, 0):.0f} seconds"

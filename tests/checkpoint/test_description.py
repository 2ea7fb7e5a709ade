"""What a checkpoint says about itself comes back typed, and of another format it is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from taidscale.checkpoint.description import (
    Description,
    newest_description,
    read_description,
)
from taidscale.checkpoint.folder import choose_checkpoint
from taidscale.checkpoint.manifest import FormatError, write_manifest
from taidscale.health.memory import WatchMemory
from taidscale.parallel.grid import AgreedError
from taidscale.parallel.layout import Layout
from taidscale.schedules.interpolation import TState
from taidscale.schedules.progress import Progress
from tests.checkpoint.stores import FACTS, names, open_store, save, this_grid
from tests.ranks import on_ranks

WRITTEN: dict[str, Any] = {
    "format": 2,
    "progress": {
        "t_state": {"t": 0.1 + 0.2, "momentum": -0.5, "previous_signal": 1.25},
        "step": 4,
        "num_tokens": 512,
    },
    "data": {"samples": [3, 4]},
    "health": {"skipped": {"total": 1, "in_a_row": 0}, "spikes": None},
    "versions": {"taidscale": "0.1.0"},
    "settings": {"total_steps": 8},
    "num_parameters": 7,
    "layout": {"world_size": 2, "stage": 3, "offload_optimizer": False, "precision": "bf16"},
    "step": 4,
    "world_size": 2,
    "unix_seconds": 1.5,
}
"""As every version so far has written it."""


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    write_manifest(tmp_path, WRITTEN, {})
    found = read_description(tmp_path)
    assert found == Description(
        Progress(TState(**WRITTEN["progress"]["t_state"]), step=4, num_tokens=512),
        data={"samples": [3, 4]},
        health=WatchMemory({"total": 1, "in_a_row": 0}, None),
        versions={"taidscale": "0.1.0"},
        settings={"total_steps": 8},
        num_parameters=7,
        layout=Layout(2, 3, False, "bf16"),
        unix_seconds=1.5,
    )
    assert (found.step, found.format, found.progress.t) == (4, 2, 0.1 + 0.2)
    assert found.to_json().items() <= WRITTEN.items()


@pytest.mark.parametrize("lost", ["data", "progress", "layout", "settings"])
def test_one_that_says_too_little(tmp_path: Path, lost: str) -> None:
    write_manifest(tmp_path, {name: WRITTEN[name] for name in WRITTEN if name != lost}, {})
    with pytest.raises(ValueError, match=rf"manifest.json does not say .*KeyError\('{lost}'\)"):
        read_description(tmp_path)


@pytest.mark.parametrize("number", [1, 3, "4"])
def test_another_format_is_refused_by_its_number(tmp_path: Path, number: object) -> None:
    """Though an older one is there: nobody asked for that."""
    for step, form in ((4, 2), (6, number)):
        folder = tmp_path / f"step-{step:08}"
        folder.mkdir()
        write_manifest(folder, {**WRITTEN, "format": form}, {})
    says = rf"step-00000006 has format {number!r}, and TAIDScale \S+ reads format 2: use the ver"
    for look in (newest_description, lambda folder: choose_checkpoint(folder, None)):
        with pytest.raises(FormatError, match=says):
            look(tmp_path)


@on_ranks(2)
def test_another_format_is_no_damage(tmp_path: Path) -> None:
    """Damage is renamed and passed over; this stays as it is, and no rank goes on."""
    grid = this_grid()
    store = open_store(tmp_path, grid, keep_last=1)
    save(store, grid, 1, 2)
    if grid.is_first:
        write_manifest(tmp_path / "step-00000002", {**FACTS, "format": 3}, {})
    dist.barrier()
    with pytest.raises(AgreedError, match="step-00000002 has format 3"):
        store.latest()
    assert names(tmp_path) == ["step-00000002"]
    save(store, grid, 3)  # a run that does not look back keeps its own ones
    assert "step-00000003" in names(tmp_path)

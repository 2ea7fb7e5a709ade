"""Loading a checkpoint of another layout: other ranks, another ZeRO stage, offload, precision.

It goes through DeepSpeed's universal checkpoint, a folder with the fp32 weight and the two
moments of each parameter, whole, from which ranks of any layout take their part:

universal-step-00000100.partial/zero/
  <parameter>/fp32.pt, exp_avg.pt, exp_avg_sq.pt
  optimizer_state.pt      for DeepSpeed's loader of ZeRO-3

DeepSpeed's converter, `ds_to_universal`, writes one form for stages 1 and 2 and another for 3,
and no stage reads the other's; it cannot convert stage 0, and cuts every shard into a file a
parameter first. Here the ranks share the parameters, and what they write equals what the
converter writes, to the bit. ZeRO-3 is loaded by DeepSpeed's loader, whose mistakes are
repaired; its loader of stages 1 and 2 fails on a rank that holds nothing but padding of a group
(on some hundred ranks the last one does), and stage 0 has none.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.utils.serialization import config as serialization

from taidscale.engine.known_classes import known_classes
from taidscale.engine.private import changed, private, replace_private
from taidscale.engine.saved_tensors import SavedTensors, Shapes, open_saved_tensors, read_mapped
from taidscale.parallel.agreement import on_first, together
from taidscale.parallel.grid import AgreedError, Grid
from taidscale.parallel.layout import Layout

log = logging.getLogger(__name__)

_STATES = ("fp32", "exp_avg", "exp_avg_sq")
_PARTIAL = ".partial"


def load_other_layout(
    engine: Any, shapes: Shapes, folder: Path, written: Layout, now: Layout, grid: Grid
) -> None:
    """Load weights, moments and step counts. All ranks call it together.

    Args:
        engine: DeepSpeed's, of layout `now`.
        shapes: of its parameters.
        folder: the checkpoint, of layout `written`; it stays as it is.
        written: see there.
        now: see there.
        grid: all ranks.

    Raises:
        AgreedError: on every rank, if any of them could not convert it.

    Cost: four all-gathers of short strings, a broadcast, and at stages 1 and 2 an all-gather of the
    weights. Together the ranks read and write 12 bytes a parameter, and read them again; one of
    them has one parameter in memory at a time.
    """
    check_complete(engine.module, shapes)
    log.info("%s was written by %s; it is converted for %s", folder, written, now)
    universal = folder.with_name(f"universal-{folder.name}{_PARTIAL}")
    try:
        on_first(grid, lambda: _make_room(universal, shapes))
        shards = together(grid, lambda: open_saved_tensors(folder, written, list(shapes)))
        together(grid, lambda: write_universal(shards, universal, shapes, grid))
        _load(engine, universal, shards)
        repair_steps(engine.optimizer, shards.step)
        together(grid, lambda: None)  # all have read
    except AgreedError as error:
        raise AgreedError(
            f"{folder}, written by {written}, cannot be converted for {now}: {error}"
        ) from None
    finally:
        if grid.is_first:
            shutil.rmtree(universal, ignore_errors=True)


def check_complete(module: torch.nn.Module, shapes: Shapes) -> None:
    """Refuse a module whose state is not all in a universal checkpoint.

    DeepSpeed silently leaves frozen parameters, which no optimizer knows, as they were built.

    Raises:
        ValueError: naming what would not be loaded.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    frozen = {name for name, _ in module.named_parameters()} - shapes.keys()
    if frozen:
        raise ValueError(f"the weights {sorted(frozen)} would not be loaded: they are not trained")
    buffers = module.state_dict().keys() - parameters.keys()
    if buffers:
        raise ValueError(f"the buffers {sorted(buffers)} would not be loaded")


def write_universal(shards: SavedTensors, universal: Path, shapes: Shapes, grid: Grid) -> None:
    """Put this rank's share of the parameters together.

    Raises:
        ValueError: if pieces are missing or left over.
        OSError: if they cannot be read or written.
    """
    for name in list(shapes)[grid.rank :: grid.world_size]:
        folder = universal / "zero" / name
        folder.mkdir(parents=True)
        for state in _STATES:
            parts = [piece.read(state) for piece in shards.pieces[name]]
            found = sum(part.numel() for part in parts)
            if found != shapes[name].numel():
                raise ValueError(f"{name}: {found} values of {state} for a shape of {shapes[name]}")
            whole = torch.cat(parts).float().view(shapes[name])
            _write({"param": whole, "cat_dim": 0}, folder / f"{state}.pt")
    if grid.is_first:
        # No settings: the loader of ZeRO-3 would give those of the first group to all groups,
        # and norms would decay.
        optimizer = {"state": {0: {"step": shards.step}}, "param_groups": [{}]}
        _write({"optimizer_state_dict": optimizer}, universal / "zero" / "optimizer_state.pt")


def repair_steps(optimizer: Any, step: float) -> None:
    """Give each of the optimizer's states a step count of its own, where AdamW wants it.

    DeepSpeed's loader gives all states of ZeRO-3 one tensor, which each of them then counts up,
    and leaves it on the CPU, where AdamW's fused form cannot count.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    if not inner.state:
        raise changed("the optimizer's states are not where they were")
    for parameter, state in inner.state.items():
        device = parameter.device if inner.defaults["fused"] else "cpu"
        state["step"] = torch.tensor(step, dtype=torch.float32, device=device)
        if not state.keys() >= {"step", "exp_avg", "exp_avg_sq"}:
            raise changed("its loader leaves out the moments")


def _write(state: Any, file: Path) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # torch's word for a full disk
        raise OSError(f"{file} cannot be written: {error}") from None


def _make_room(universal: Path, shapes: Shapes) -> None:
    for left_behind in universal.parent.glob(f"universal-*{_PARTIAL}"):
        shutil.rmtree(left_behind)
    needed = 1.1 * 12 * sum(shape.numel() for shape in shapes.values())
    free = shutil.disk_usage(universal.parent).free
    if free < needed:
        raise OSError(
            f"for a while it needs about {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are "
            f"free in {universal.parent}; free some, or start the run as it was"
        )
    universal.mkdir()


def _load(engine: Any, universal: Path, shards: SavedTensors) -> None:
    stage = engine.zero_optimization_stage()
    if stage == 3:  # what `load_universal: true` comes to
        engine.optimizer.checkpoint_event_prologue()
        with known_classes(), serialization.patch("load.mmap", True):  # type: ignore[attr-defined]
            engine.optimizer.load_state_dict(None, checkpoint_folder=str(universal))
        engine.optimizer.checkpoint_event_epilogue()
    else:
        for name, parameter in engine.module.named_parameters():
            for state in _STATES:
                if (own := _own_piece(engine, parameter, state)) is not None:
                    target, start = own
                    file = universal / "zero" / name / f"{state}.pt"
                    whole = read_mapped(file)["param"].view(-1)
                    target.copy_(whole.narrow(0, start, target.numel()))
        if stage > 0:
            engine.optimizer.update_lp_params()
    for counter, value in shards.counters.items():
        replace_private(engine, counter, value)


def _own_piece(engine: Any, parameter: Any, state: str) -> tuple[torch.Tensor, int] | None:
    """Where this rank keeps its piece of a parameter at stages 0 to 2, and where that begins."""
    if engine.zero_optimization_stage() == 0:
        return _state_of(engine.optimizer, parameter, state).view(-1), 0
    mapping = private(parameter, "_hp_mapping")
    if mapping is None:  # all of it is on other ranks
        return None
    inner = engine.optimizer.optimizer
    (flat,) = inner.param_groups[mapping.param_group_index]["params"]
    place = mapping.hp_fragment_address
    own = _state_of(inner, flat, state).narrow(0, place.start, place.numel)
    return own, mapping.lp_fragment_address.start


def _state_of(optimizer: Any, parameter: torch.Tensor, state: str) -> torch.Tensor:
    """A weight or moment in torch's AdamW, which has no moments before its first step."""
    if state == "fp32":
        return parameter.data
    moments = optimizer.state[parameter]
    found: torch.Tensor = moments.setdefault(state, torch.zeros_like(parameter.data))
    return found

"""Where a checkpoint of any layout keeps each parameter's weight and moments."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taidscale.engine.known_classes import read_known
from taidscale.parallel.layout import Layout

Shapes = dict[str, torch.Size]
"""Of the trainable parameters, in the order of the optimizer's groups."""

_Flat = dict[str, torch.Tensor]
"""fp32 weights and the moments of many parameters, flat, and Adam's step."""

_Places = dict[str, tuple[int, int]]
"""Where in them a parameter's piece begins, and how long it is."""


@dataclass(frozen=True)
class Piece:
    """The part of a parameter that one rank kept: a range of flat tensors."""

    flat: _Flat
    start: int
    numel: int

    def read(self, state: str) -> torch.Tensor:
        """Its values of `fp32`, `exp_avg` or `exp_avg_sq`."""
        return self.flat[state].narrow(0, self.start, self.numel)


@dataclass(frozen=True)
class SavedTensors:
    """A checkpoint's tensors, mapped from its files: what is not used is not read."""

    pieces: dict[str, list[Piece]]
    """Of each parameter, in order."""
    step: float
    """As Adam counts it, without the steps that were skipped."""
    counters: dict[str, int]
    """DeepSpeed's own, by the name of the engine's attribute."""


def open_saved_tensors(folder: Path, written: Layout, order: list[str]) -> SavedTensors:
    """Find all tensors of a checkpoint; nothing of them is read yet.

    Args:
        folder: the checkpoint.
        written: its layout.
        order: all parameters, as in `Shapes`.

    Raises:
        ValueError: if some parameters were updated more often than others.
        OSError: if a file is missing.
    """
    name = "zero_pp_rank_0_mp_rank_00" if written.stage == 3 else "mp_rank_00"
    model = read_mapped(folder / f"{name}_model_states.pt")
    pieces: dict[str, list[Piece]] = {name: [] for name in order}
    steps = set()
    for flat, places in _flat_tensors(folder, written, model, order):
        steps.add(float(flat["step"]))
        for name, (start, numel) in places.items():
            pieces[name].append(Piece(flat, start, numel))
    if len(steps) != 1:
        raise ValueError(f"its parameters were updated {sorted(steps)} times, not equally often")
    counters = {key: model[key] for key in ("global_steps", "global_samples", "skipped_steps")}
    return SavedTensors(pieces, steps.pop(), counters)


def read_mapped(file: Path) -> Any:
    """As `torch.load`; tensors stay in the file until they are used.

    Raises:
        ValueError: if it holds more than a checkpoint does.
    """
    return read_known(file, mmap=True)


def _flat_tensors(
    folder: Path, written: Layout, model: dict[str, Any], order: list[str]
) -> Iterator[tuple[_Flat, _Places]]:
    """In the order of the ranks, in which the pieces of a parameter follow each other."""
    if written.stage == 0:
        for number, name in enumerate(order):
            states = {"fp32": model["module"][name], **model["optimizer"]["state"][number]}
            flat = {key: tensor.view(-1) for key, tensor in states.items()}
            yield flat, {name: (0, flat["fp32"].numel())}
        return
    prefix = "bf16_" if written.precision == "bf16" else ""
    for rank in range(written.world_size):
        file = folder / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        shard = read_mapped(file)["optimizer_state_dict"]
        if written.stage == 3:
            weights, moments = shard["fp32_flat_groups"], shard["optimizer_state_dict"]["state"]
            groups = [_places(group, rank, written.world_size) for group in model["param_shapes"]]
        else:
            weights = shard["single_partition_of_fp32_groups"]
            moments = shard["base_optimizer_state"]["state"]
            groups = [
                {name: (place.start, place.numel) for name, place in group.items()}
                for group in shard["param_slice_mappings"]
            ]
        for number, places in enumerate(groups):
            if places:  # else it is padding
                yield {"fp32": weights[number], **moments[number]}, places


def _places(shapes: Shapes, rank: int, world_size: int) -> _Places:
    """Where ZeRO-3 keeps a rank's pieces of a group: each padded to the same length on all."""
    places, start = {}, 0
    for name, shape in shapes.items():
        length = math.ceil(shape.numel() / world_size)
        places[name] = (start, max(0, min(length, shape.numel() - rank * length)))
        start += length
    return places

"""Models whose files hold 8-bit floats with scales, and the same models dequantised by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

BLOCK = (5, 7)
"""Crosses every slice, and leaves smaller blocks at the ends."""
FORMS = ("block", "row", "flat row", "tensor", "tensor of one")


def spread(scale: torch.Tensor, block: tuple[int, int], shape: torch.Size) -> torch.Tensor:
    """One factor for each element of a weight, by plain loops."""
    full = torch.empty(shape)
    for row in range(shape[0]):
        for column in range(shape[1]):
            full[row, column] = scale[row // block[0], column // block[1]]
    return full


def quantised(weight: torch.Tensor, form: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The stored weight, its scales as stored, and its values."""
    rows, columns = weight.shape
    block = {"block": BLOCK, "row": (1, columns), "flat row": (1, columns)}.get(
        form, (rows, columns)
    )
    shape = (-(-rows // block[0]), -(-columns // block[1]))
    generator = torch.Generator().manual_seed(rows * columns)
    scale = 0.001 * (1 + 9 * torch.rand(shape, generator=generator))
    full = spread(scale, block, weight.shape)
    stored = (weight.float() / full).clamp(-448, 448).to(torch.float8_e4m3fn)
    values = stored.float() * full
    return stored, scale.reshape(_stored_shape(form, shape)), values


def _stored_shape(form: str, shape: tuple[int, int]) -> tuple[int, ...]:
    match form:
        case "flat row":
            return (shape[0],)
        case "tensor":
            return ()
        case "tensor of one":
            return (1,)
    return shape


def save_both(
    folder: Path,
    form: str,
    is_stored_small: Callable[[str], bool] = lambda name: name.endswith("proj.weight"),
    scale_name: str = "weight_scale_inv",
) -> tuple[Path, Path]:
    """Write `float8` and `by-hand` beside a model folder, and return them."""
    tensors: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    small: dict[str, torch.Tensor] = {}
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        small[name] = plain[name] = tensor
        if is_stored_small(name):
            small[name], scale, plain[name] = quantised(tensor, form)
            small[name.removesuffix("weight") + scale_name] = scale
            small[name.removesuffix("weight") + "input_scale"] = torch.tensor(0.5)
    entries = json.loads((folder / "config.json").read_text())
    settings: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    if form == "block":
        settings["weight_block_size"] = list(BLOCK)
    return (
        _save(folder.with_name(f"{folder.name}-float8"), small, entries, settings),
        _save(folder.with_name(f"{folder.name}-by-hand"), plain, entries, None),
    )


def _save(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    entries: dict[str, Any],
    settings: dict[str, Any] | None,
) -> Path:
    folder.mkdir()
    if settings:
        entries = {**entries, "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(entries))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder

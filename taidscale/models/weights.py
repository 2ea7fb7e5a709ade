"""Reading single tensors, or slices of them, out of a folder of safetensors files."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

SINGLE_FILE = "model.safetensors"


@dataclass(frozen=True)
class WeightFiles:
    """Where each tensor of a model lies."""

    folder: Path
    file_of: dict[str, str]

    def __contains__(self, name: str) -> bool:
        return name in self.file_of

    def read(self, name: str, rows: slice | None = None, dim: int = 0) -> torch.Tensor:
        """One tensor, or the part `rows` of it along dimension `dim` (0 or 1).

        Only that part is copied into memory; the file is mapped for the time of the call, so
        that its pages do not stay resident.

        Raises:
            ValueError: if the tensor is missing, or its file is missing or damaged.
        """
        if name not in self.file_of:
            raise ValueError(f"{self.folder}: the weights hold no tensor {name!r}")
        path = self.folder / self.file_of[name]
        try:
            with safe_open(path, framework="pt") as file:
                if rows is None:
                    tensor: torch.Tensor = file.get_tensor(name)
                else:
                    part = file.get_slice(name)
                    tensor = part[rows] if dim == 0 else part[:, rows]
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: cannot read {name!r}: {error}") from None
        return tensor

    def count(self) -> int:
        """Numbers in all tensors, without reading them."""
        total = 0
        for name in sorted(set(self.file_of.values())):
            with safe_open(self.folder / name, framework="pt") as file:
                keys = file.keys()
                total += sum(math.prod(file.get_slice(key).get_shape()) for key in keys)
        return total


def find_weights(folder: Path, setting: str) -> WeightFiles:
    """Locate the tensors of a model folder, and check that each file is there and whole.

    Args:
        folder: holds `model.safetensors`, or several files and their index.
        setting: where the user wrote the folder, for the message.

    Raises:
        ValueError: if there are none, or one is missing or truncated.
    """
    index = folder / f"{SINGLE_FILE}.index.json"
    if index.is_file():
        try:
            file_of = {
                str(k): str(v) for k, v in json.loads(index.read_text())["weight_map"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{setting}: {index} is damaged: {error!r}") from None
    elif (folder / SINGLE_FILE).is_file():
        file_of = dict.fromkeys(_tensor_names(folder / SINGLE_FILE, setting), SINGLE_FILE)
    else:
        raise ValueError(
            f"{setting}: {folder} holds no safetensors weights "
            f"({SINGLE_FILE} or {index.name}); save the model with safe_serialization=True"
        )
    for file in sorted(set(file_of.values())):
        _tensor_names(folder / file, setting)
    return WeightFiles(folder, file_of)


def _tensor_names(path: Path, setting: str) -> list[str]:
    """Names in one file; opening it compares its length with its header."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{setting}: {path} is missing or truncated: {error}") from None

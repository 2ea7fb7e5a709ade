"""Reading single tensors, or slices of them, out of a folder of safetensors files."""

import json
import logging
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from taidscale.models.config_file import CONFIG_FILE, is_wrapper, read_entries
from taidscale.models.quantization import (
    FLOAT8,
    FLOATS,
    REMEDY,
    SCALES,
    Scale,
    block_of,
    check_quantization,
    scale_for,
)

log = logging.getLogger(__name__)

SINGLE_FILE = "model.safetensors"
_WITHOUT_USE = re.compile(
    r".*\.(rotary_emb\.inv_freq|input_scale|activation_scale|input_scale_ub"
    r"|[kvq]_scale|kv_scale|prob_scale|attention\.(masked_)?bias)"
)
"""RoPE frequencies, which config.json decides, scales of activations and of the cache, which are
not rounded here, and the causal masks of old GPT-NeoX files."""
_TEXT_PARTS = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
    ("lm_head.", "lm_head."),
)
"""What names in the files of a wrapper begin with, and those of its text model alone."""


@dataclass(frozen=True)
class _Stored:
    """What a file's header says of a tensor."""

    file: str
    dtype: str
    """As safetensors calls it."""
    shape: tuple[int, ...]


class Weights(Protocol):
    """Where the parts of a model come from."""

    @property
    def folder(self) -> Path:
        """Of the files, for messages."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the weights: of all tensors but scales and what has no use in training."""

    def __contains__(self, name: str) -> bool: ...

    def read(self, name: str, rows: slice | None = None, dim: int = 0) -> torch.Tensor:
        """One tensor, or a part of it; see `WeightFiles.read`."""

    def close(self) -> None:
        """Let go of what is open."""


@dataclass
class _Open:
    """The file that was read last: most files are read from one end to the other."""

    path: Path | None = None
    file: Any = None
    num_bytes: int = 0
    """That were read so far, of all files."""


@dataclass(frozen=True)
class WeightFiles:
    """Where each tensor of a model lies."""

    folder: Path
    file_of: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    """Of the weights: of all tensors but scales and what has no use in training."""
    scales: dict[str, Scale] = field(default_factory=dict)
    """Of the weights that are stored in 8 bits."""
    stored_as: dict[str, str] = field(default_factory=dict)
    """Names in the files, where they are others: those of a text model inside another."""
    _begun: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """Files of which something was read, for the log."""
    _open: _Open = field(default_factory=_Open, init=False, repr=False, compare=False)

    def __contains__(self, name: str) -> bool:
        return name in self.file_of

    def read(self, name: str, rows: slice | None = None, dim: int = 0) -> torch.Tensor:
        """One tensor, or the part `rows` of it along dimension `dim` (0 or 1).

        Only that part is copied into memory. Its file stays open until another one is read, or
        `close`. It has the type that it is stored in; 8-bit floats
        come multiplied with their scales, in float32.

        Raises:
            ValueError: if the tensor is missing, its file is missing or damaged, or a value is not
                finite.
        """
        part = self._stored(name, rows, dim)
        if (scale := self.scales.get(name)) is not None:
            start = 0 if rows is None else rows.indices(self.shapes[name][dim])[0]
            first_row, first_column = (start, 0) if dim == 0 else (0, start)
            part = scale.applied(part, self._stored(scale.name), first_row, first_column)
        if not torch.isfinite(part).all():
            raise ValueError(
                f"{self.folder / self.file_of[name]}: {name!r} holds values that are not finite; "
                "the file is damaged, fetch or export it again"
            )
        return part

    def _stored(self, name: str, rows: slice | None = None, dim: int = 0) -> torch.Tensor:
        if name not in self.file_of:
            raise ValueError(f"{self.folder}: the weights hold no tensor {name!r}")
        path = self.folder / self.file_of[name]
        if path.name not in self._begun:
            self._begun.add(path.name)
            num_files = len(set(self.file_of.values()))
            log.info("reading %s, file %d of %d", path, len(self._begun), num_files)
        try:
            if self._open.path != path:
                self.close()
                self._open.file, self._open.path = safe_open(path, framework="pt"), path
            stored = self.stored_as.get(name, name)
            if rows is None:
                tensor: torch.Tensor = self._open.file.get_tensor(stored)
            else:
                part = self._open.file.get_slice(stored)
                tensor = part[rows] if dim == 0 else part[:, rows]
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: cannot read {name!r}: {error}") from None
        self._open.num_bytes += tensor.nbytes
        return tensor

    @property
    def num_bytes_read(self) -> int:
        """So far."""
        return self._open.num_bytes

    def close(self) -> None:
        """Let go of the file that was read last, whose pages may be resident."""
        self._open.file = self._open.path = None

    def count(self) -> int:
        """Numbers in all weights, without reading them."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def find_weights(folder: Path, setting: str) -> WeightFiles:
    """Locate the tensors of a model folder, and check that each file is there and whole.

    Args:
        folder: holds `model.safetensors`, or several files and their index.
        setting: where the user wrote the folder, for the message.

    Raises:
        ValueError: if there are none, one is missing or truncated, files contradict each other,
            or tensors are stored in a form that is not read.
    """
    stored, stored_as = _stored_tensors(folder, setting), {}
    if is_wrapper(folder, setting):
        stored_as = {new: name for name in stored if (new := _in_text_model(name)) is not None}
        stored = {new: stored[name] for new, name in stored_as.items()}
    settings: Any = None
    if (folder / CONFIG_FILE).is_file():
        settings = read_entries(folder, setting).get("quantization_config")
    try:
        check_quantization(settings)
        scales = _scales(stored, block_of(settings))
    except ValueError as error:
        raise ValueError(f"{setting}: {folder}: {error}") from None
    of_scales = {scale.name for scale in scales.values()}
    return WeightFiles(
        folder,
        {name: tensor.file for name, tensor in stored.items()},
        {
            name: tensor.shape
            for name, tensor in stored.items()
            if name not in of_scales and not _WITHOUT_USE.fullmatch(name)
        },
        scales,
        stored_as,
    )


def _in_text_model(name: str) -> str | None:
    """The name of a tensor in the text model inside a wrapper; None if it is of its eyes."""
    for beginning, instead in _TEXT_PARTS:
        if name.startswith(beginning):
            return instead + name.removeprefix(beginning)
    return None


def _scales(stored: dict[str, _Stored], block: tuple[int, int] | None) -> dict[str, Scale]:
    """The factors of each weight in 8 bits; nothing else may be stored in another form.

    Raises:
        ValueError: naming the first tensor that cannot be read, and its type.
    """
    scales = {}
    for name, tensor in stored.items():
        if _WITHOUT_USE.fullmatch(name) or name.endswith(SCALES):
            continue
        stem = name.removesuffix("weight")
        factors = [stem + scale for scale in SCALES if stem + scale in stored]
        if tensor.dtype in FLOATS and not (factors and stem != name):
            continue
        if tensor.dtype not in FLOAT8:
            said = f"is stored as {tensor.dtype}"
            said += f" beside {factors[0]!r}" if factors else ""
            raise ValueError(
                f"{name!r} {said}; only floats of 16 bits and more, and those of 8 bits with "
                f"their scales, are read: {REMEDY}"
            )
        if len(factors) != 1 or stem == name:
            raise ValueError(
                f"{name!r} is stored in 8 bits ({tensor.dtype}) and has {len(factors)} scales "
                f"({' or '.join(SCALES)}) instead of one: the files are not whole, or {REMEDY}"
            )
        scales[name] = scale_for(factors[0], tensor.shape, stored[factors[0]].shape, block)
    return scales


def _stored_tensors(folder: Path, setting: str) -> dict[str, _Stored]:
    """All tensors, from the headers of the files that hold them."""
    index, single = folder / f"{SINGLE_FILE}.index.json", folder / SINGLE_FILE
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{setting}: {folder} holds an adapter (adapter_config.json), which is not applied "
            "here; merge it into the model, or remove its files"
        )
    if not index.is_file():
        if not single.is_file():
            raise ValueError(
                f"{setting}: {folder} holds no safetensors weights "
                f"({SINGLE_FILE} or {index.name}); save the model with safe_serialization=True"
            )
        return _header(single, setting)
    file_of = _read_index(index, setting)
    if single.is_file() and SINGLE_FILE not in file_of.values():
        raise ValueError(
            f"{setting}: {folder} holds two sets of weights, {SINGLE_FILE} and those that "
            f"{index.name} names; remove the one that is not the model"
        )
    headers = {name: _header(folder / name, setting) for name in sorted(set(file_of.values()))}
    for name, file in file_of.items():
        if name not in headers[file]:
            raise ValueError(
                f"{setting}: {folder / file} holds no tensor {name!r}, which {index.name} says is "
                "there; the files are of different models, or one is not whole"
            )
    for file, header in headers.items():
        if others := sorted(name for name in header if file_of.get(name) != file):
            raise ValueError(
                f"{setting}: {folder / file} holds {others[0]!r}, which {index.name} does not name "
                "as its; the files are of different models, or the index is not theirs"
            )
    return {name: headers[file][name] for name, file in file_of.items()}


def _read_index(index: Path, setting: str) -> dict[str, str]:
    """The file of each tensor, which lies beside the index."""
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        file_of = {str(name): str(file) for name, file in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{setting}: {index} is damaged: {error!r}") from None
    if outside := [file for file in file_of.values() if file != Path(file).name]:
        raise ValueError(f"{setting}: {index} names {outside[0]!r}, which is no file beside it")
    return file_of


def _header(path: Path, setting: str) -> dict[str, _Stored]:
    """The tensors of one file; opening it compares its length with its header."""
    try:
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: _Stored(path.name, part.get_dtype(), tuple(part.get_shape()))
                for name, part in parts.items()
            }
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{setting}: {path} is missing or truncated: {error}") from None

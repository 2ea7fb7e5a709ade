"""Which stored forms of weights are read, and how 8-bit floats get their values back."""

import math
from dataclasses import dataclass
from typing import Any

import torch

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""What safetensors calls the types that are read as they are."""
FLOAT8 = frozenset({"F8_E4M3", "F8_E5M2"})
"""Those that mean nothing without their scales."""
SCALES = ("weight_scale_inv", "weight_scale")
"""Names, in place of `weight`, of what to multiply with. `_inv` is how DeepSeek and Qwen call it;
it too is a factor."""
_METHODS = ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt")
_DENSE_FORMATS = (None, "dense", "float-quantized", "naive-quantized")
REMEDY = (
    "take the model's repository with bfloat16 weights, or dequantise it first (load it with "
    "transformers and `dequantize()`, then `save_pretrained`)"
)


def check_quantization(settings: Any) -> None:
    """Refuse what `quantization_config` announces, unless it can be 8-bit floats with scales.

    Raises:
        ValueError: naming the method and the way out.
    """
    if not settings:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else settings
    if method not in _METHODS:
        raise ValueError(
            f"quantization_config has quant_method {method!r}; of quantised weights only 8-bit "
            f"floats with their scales are read: {REMEDY}"
        )
    for name in ("format", "sparsity_config", "transform_config"):
        value = settings.get(name)
        form = value.get("format", value) if isinstance(value, dict) else value
        if form not in (*_DENSE_FORMATS, {}):
            raise ValueError(
                f"quantization_config of {method} has {name} {form!r}, which is not read: {REMEDY}"
            )


def block_of(settings: Any) -> tuple[int, int] | None:
    """Rows and columns of a weight that share a scale, as `quantization_config` says it.

    Raises:
        ValueError: if it is no pair of positive numbers.
    """
    if not isinstance(settings, dict):
        return None
    sizes = settings.get("weight_block_size")
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        if isinstance(group, dict):
            sizes = sizes or (group.get("weights") or {}).get("block_structure")
    if sizes is None:
        return None
    if (
        not isinstance(sizes, list | tuple)
        or len(sizes) != 2
        or not all(isinstance(size, int) and size > 0 for size in sizes)
    ):
        raise ValueError(f"quantization_config has blocks of {sizes!r}, not of [rows, columns]")
    return sizes[0], sizes[1]


@dataclass(frozen=True)
class Scale:
    """What a stored weight [out, in] is to be multiplied with."""

    name: str
    """Of the tensor that holds the factors."""
    block: tuple[int, int]
    """Rows and columns of the weight that share one; the last ones may be smaller."""

    def applied(
        self, part: torch.Tensor, factors: torch.Tensor, first_row: int, first_column: int
    ) -> torch.Tensor:
        """The values of a part of the weight, in float32.

        Args:
            part: [rows, columns] of the weight, as stored.
            factors: all of the weight's factors, as stored.
            first_row: where the part begins in the weight.
            first_column: likewise.
        """
        rows, columns = part.shape
        block_rows, block_columns = self.block
        factors = factors.float().reshape(-1, 1) if factors.ndim < 2 else factors.float()
        of_rows = factors[torch.arange(first_row, first_row + rows) // block_rows]
        values = part.float()
        for block in range(first_column // block_columns, of_rows.shape[1]):
            start = max(block * block_columns - first_column, 0)
            if start >= columns:
                break
            stop = (block + 1) * block_columns - first_column
            values[:, start:stop] *= of_rows[:, block, None]
        return values


def scale_for(
    name: str,
    weight: tuple[int, ...],
    factors: tuple[int, ...],
    block: tuple[int, int] | None,
) -> Scale:
    """How factors are spread over a weight: one for all, one a row, or one a block.

    Args:
        name: of the tensor of factors.
        weight: shape [out, in].
        factors: shape.
        block: as `quantization_config` says it.

    Raises:
        ValueError: if they do not fit.
    """
    if len(weight) == 2 and math.prod(factors) == 1:
        return Scale(name, (max(weight[0], 1), max(weight[1], 1)))
    if len(weight) == 2 and factors in ((weight[0],), (weight[0], 1)):
        return Scale(name, (1, max(weight[1], 1)))
    if block is None:
        raise ValueError(
            f"{name} has shape {list(factors)} for a weight of {list(weight)}, and no "
            "weight_block_size in config.json's quantization_config says what it belongs to"
        )
    fits = tuple(math.ceil(size / part) for size, part in zip(weight, block, strict=False))
    if len(weight) != 2 or factors != fits:
        raise ValueError(
            f"{name} has shape {list(factors)}; a weight of {list(weight)} in blocks of "
            f"{list(block)} needs {list(fits)}"
        )
    return Scale(name, block)

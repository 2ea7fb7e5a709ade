"""What a model's tensors are called in files, whatever the installed transformers calls them.

Of a mixture, files have three matrices of each expert. transformers 4 has a parameter for each; 5
packs those of all experts into two, and calls Mixtral's mixture and GPT-NeoX's head as those of
other families. Shapes: E experts of width w, D hidden size.
"""

import re
from dataclasses import dataclass

from taidscale.models.part_names import part_names


@dataclass(frozen=True)
class ExpertNames:
    """What the parts of a mixture are called in files."""

    block: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


def expert_names(model_type: str) -> ExpertNames:
    """Those of a family."""
    if model_type == "mixtral":
        return ExpertNames("block_sparse_moe", "w1", "w3", "w2")
    return ExpertNames()


_PACKED = re.compile(r"(.*\.layers\.\d+)\.mlp\.experts\.(gate_up_proj|down_proj)")
_BLOCK = re.compile(r"(.*\.layers\.\d+)\.mlp\.(.*)")


def stored_names(name: str, shape: tuple[int, ...], model_type: str) -> dict[str, tuple[int, ...]]:
    """The tensors of the files that a parameter of transformers' model is made of, in order.

    Args:
        name: of the parameter, beginning with the trunk's.
        shape: of it: [E, 2·w, D] and [E, D, w] where matrices of all experts are packed.
        model_type: its family.

    Returns:
        Their shapes by their names.
    """
    names = expert_names(model_type)
    if packed := _PACKED.fullmatch(name):
        layer, kind = packed.groups()
        parts = (names.down,) if kind == "down_proj" else (names.gate, names.up)
        experts, (number, rows, columns) = f"{layer}.{names.block}.experts", shape
        return {
            f"{experts}.{expert}.{part}.weight": (rows // len(parts), columns)
            for expert in range(number)
            for part in parts
        }
    if block := _BLOCK.fullmatch(name):
        layer, rest = block.groups()
        name = f"{layer}.{names.block}.{rest}"
    if name == "lm_head.weight":
        name = part_names(model_type).head_weight
    return {name: shape}

"""Which part of each projection a rank of a tp_group holds.

Attention is divided by whole heads, MLPs and experts by columns. Shapes: H query heads on K
key-value heads, T ranks.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

_GRAINS = (64, 32, 16)
"""Columns that stay together where all ranks can have as many: what matrix units like."""


class Axis(StrEnum):
    """What the outputs, or the inputs, of a projection belong to."""

    QUERIES = "query heads"
    KEYS = "key-value heads"
    WIDTH = "columns of an MLP"


COLUMNS: dict[str, tuple[Axis, ...]] = {
    **dict.fromkeys(("q_proj", "q_b_proj", "kv_b_proj", "query_key_value"), (Axis.QUERIES,)),
    **dict.fromkeys(("k_proj", "v_proj"), (Axis.KEYS,)),
    "qkv_proj": (Axis.QUERIES, Axis.KEYS, Axis.KEYS),
    **dict.fromkeys(("gate_proj", "up_proj", "fc1", "c_fc", "dense_h_to_4h"), (Axis.WIDTH,)),
    "gate_up_proj": (Axis.WIDTH, Axis.WIDTH),
}
"""Projections whose outputs are divided, by their names, with the parts that are packed in them.

`query_key_value` of GPT-NeoX holds the three of a head side by side, head after head.
"""
ROWS: dict[str, Axis] = {
    **dict.fromkeys(("o_proj", "dense"), Axis.QUERIES),
    **dict.fromkeys(("down_proj", "fc2", "c_proj", "dense_4h_to_h"), Axis.WIDTH),
}
"""Projections whose inputs are divided, and whose outputs are summed over the ranks."""
WHOLE = frozenset({"q_a_proj", "kv_a_proj_with_mqa"})
"""Projections that every rank has whole: what they make is small, and all heads need it."""
PER_HEAD: dict[str, Axis] = {
    **dict.fromkeys(("q_norm", "q_layernorm"), Axis.QUERIES),
    **dict.fromkeys(("k_norm", "k_layernorm"), Axis.KEYS),
}
"""Norms of attention. Most are of one head and alike for all; those with weights of their own for
each head are divided as the heads are."""


@dataclass(frozen=True)
class Share:
    """What one rank of T computes of every layer."""

    rank: int
    ranks: int
    num_heads: int
    """H."""
    num_kv_heads: int
    """K."""

    def part(self, axis: Axis, size: int) -> slice:
        """This rank's of `size` elements, which belong to the heads or columns of an axis."""
        match axis:
            case Axis.QUERIES:
                return _scaled(self.queries, size, self.num_heads)
            case Axis.KEYS:
                return _scaled(self.keys, size, self.num_kv_heads)
            case Axis.WIDTH:
                return self.columns(size)

    def parts(self, axes: tuple[Axis, ...], size: int) -> list[slice]:
        """The same of several parts, packed one after the other in `size` elements."""
        units = [self._units(axis) for axis in axes]
        parts, start = [], 0
        for axis, unit in zip(axes, units, strict=True):
            length = size * unit // sum(units)
            own = self.part(axis, length)
            parts.append(slice(start + own.start, start + own.stop))
            start += length
        return parts

    @property
    def queries(self) -> slice:
        """This rank's query heads."""
        if self._shares_keys:
            return _even(self.num_heads, self.rank, self.ranks)
        return _scaled(self.keys, self.num_heads, self.num_kv_heads)

    @property
    def keys(self) -> slice:
        """This rank's key-value heads.

        Where there are more ranks than heads, several ranks hold the same one if the numbers
        allow it. Else some ranks have one head more than others, or none.
        """
        if self._shares_keys:
            own = self.rank * self.num_kv_heads // self.ranks
            return slice(own, own + 1)
        return _even(self.num_kv_heads, self.rank, self.ranks)

    def columns(self, width: int) -> slice:
        """This rank's columns of an MLP."""
        even = [grain for grain in _GRAINS if width % (grain * self.ranks) == 0]
        grain = even[0] if even else _uneven_grain(width, self.ranks)
        own = _even(width // grain, self.rank, self.ranks)
        return slice(own.start * grain, own.stop * grain)

    @property
    def key_copies(self) -> int:
        """Ranks that hold each key-value head."""
        return self.ranks // self.num_kv_heads if self._shares_keys else 1

    @property
    def _shares_keys(self) -> bool:
        spread = self.ranks > self.num_kv_heads and self.ranks % self.num_kv_heads == 0
        return spread and self.num_heads % self.ranks == 0

    def _units(self, axis: Axis) -> int:
        """How parts of a packed projection relate in size: in heads, or as equals."""
        match axis:
            case Axis.QUERIES:
                return self.num_heads
            case Axis.KEYS:
                return self.num_kv_heads
            case Axis.WIDTH:
                return 1


def length(part: slice) -> int:
    """Elements of a part."""
    return int(part.stop - part.start)


def _even(units: int, rank: int, ranks: int) -> slice:
    """Consecutive units; the first ranks have one more where they do not divide."""
    whole, rest = divmod(units, ranks)
    start = rank * whole + min(rank, rest)
    return slice(start, start + whole + (rank < rest))


def _scaled(part: slice, size: int, units: int) -> slice:
    each = size // units
    return slice(part.start * each, part.stop * each)


def _uneven_grain(width: int, ranks: int) -> int:
    """The largest power of two, up to 64, that divides the width and leaves each rank something."""
    grain = math.gcd(width, _GRAINS[0])
    while grain > 1 and width // grain < ranks:
        grain //= 2
    return grain

"""Where in the files a parameter's elements are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Read:
    """A tensor of the files, or a part of one."""

    name: str
    part: slice | None = None
    dim: int = 0
    """Along which the part is."""


Reads = dict[str, list[Read]]
"""What a parameter, by its name, is made of: parts that follow each other in its rows."""

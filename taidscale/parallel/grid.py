"""Which ranks exist, and which of them share one copy of the teacher."""

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


class AgreedError(ValueError):
    """A user's error that every rank raises alike, so that one of them may speak for all."""


@dataclass(frozen=True)
class Axis:
    """One direction in which ranks are side by side."""

    size: int
    """Places along it."""
    index: int
    """This rank's."""


@dataclass(frozen=True)
class Grid:
    """All ranks, and the tp_group of this one: `tp_size` consecutive ranks of its node.

    Ranks have three axes, the last one running fastest: `data`, whose places read samples of
    their own; `sequence`, whose places share sequences, so far of size 1; and `tensor`, the ranks
    of a tp_group. A rank knows the ranks of the world through the default group. The student is
    sharded over the world; the teacher, and the loss's columns, over a tp_group.
    """

    rank: int
    world_size: int
    tp_size: int
    tp_group: dist.ProcessGroup
    device: torch.device

    @property
    def data(self) -> Axis:
        """The tp_groups."""
        return Axis(self.world_size // self.tp_size, self.rank // self.tp_size)

    @property
    def sequence(self) -> Axis:
        """Ranks that share sequences: each has its own."""
        return Axis(1, 0)

    @property
    def tensor(self) -> Axis:
        """The ranks of a tp_group."""
        return Axis(self.tp_size, self.rank % self.tp_size)

    @property
    def tp_rank(self) -> int:
        """Place of this rank in its tp_group."""
        return self.tensor.index

    def group_across(self) -> dist.ProcessGroup:
        """A new group of the ranks that have this one's place in their tp_groups.

        Cost: all ranks make the groups of all places, together.
        """
        groups = [
            dist.new_group(list(range(place, self.world_size, self.tp_size)))
            for place in range(self.tp_size)
        ]
        own = groups[self.tp_rank]
        assert isinstance(own, dist.ProcessGroup)  # a rank is a member of its own group
        return own

    def of_group(self, values: list[T]) -> list[T]:
        """Those of this rank's tp_group, in its order, out of every rank's."""
        first = self.rank - self.tensor.index
        return values[first : first + self.tp_size]

    @property
    def is_first(self) -> bool:
        """Whether this rank speaks for the run: writes files, prints."""
        return self.rank == 0

    def sum_over_world(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a float64 or int64 tensor over all ranks; equal on all of them afterwards.

        Cost: one all-reduce of `values`.
        """
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total

    def gather_floats(self, *values: float) -> list[list[float]]:
        """Every rank's values, in rank order, on every rank.

        Cost: one all-gather of 8 bytes a value and rank.
        """
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        gathered_values = own.new_empty(self.world_size * len(values))
        dist.all_gather_into_tensor(gathered_values, own)
        gathered: list[list[float]] = gathered_values.view(self.world_size, -1).tolist()
        return gathered

    def first_problem(self, problem: T | None) -> T | None:
        """Agree on whether all ranks can go on: the problem of the lowest rank that has one.

        Cost: one all-gather of short strings over the world.
        """
        return next((found for found in self.gather(problem) if found is not None), None)

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in rank order, on every rank.

        Cost: one all-gather of the pickled values.
        """
        values = [value] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def as_on_first(self, value: T) -> T:
        """What the first rank passed, on every rank.

        Cost: one broadcast of the pickled value.
        """
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def make_grid(tp_size: int, device: torch.device, timeout: timedelta | None = None) -> Grid:
    """Form the groups. All ranks call it, once, with the default group initialised.

    Args:
        tp_size: ranks per tp_group; `config.load.check_world` has checked that it divides
            the ranks of a node, so that a group never spans two nodes.
        device: where this rank computes.
        timeout: of a collective in a tp_group; the backend's own by default.

    Cost: the creation of world_size / tp_size groups on every rank.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    if world_size % tp_size:
        raise ValueError(f"tp_size {tp_size} does not divide the {world_size} ranks")
    groups = [
        dist.new_group(list(range(first, first + tp_size)), timeout=timeout)
        for first in range(0, world_size, tp_size)
    ]
    own = groups[rank // tp_size]
    assert isinstance(own, dist.ProcessGroup)  # a rank is a member of its own group
    return Grid(rank, world_size, tp_size, own, device)

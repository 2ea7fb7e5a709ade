"""What the ranks of a tp_group exchange.

Shapes: n rows of one rank, N = T·n rows of the group.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist


def all_gather_rows(local: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Rows [n, ...] of every rank, in rank order: [N, ...]. No gradient reaches `local`.

    Cost: one all-gather of N rows.
    """
    size = dist.get_world_size(group)
    if size == 1:
        return local
    gathered = local.new_empty((size * local.shape[0], *local.shape[1:]))
    dist.all_gather_into_tensor(gathered, local.contiguous(), group=group)
    return gathered


def reduce_scatter_rows(partial: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Sum [N, ...] over the ranks; each receives its own n rows of the sum. No gradient.

    Cost: one reduce-scatter of N rows.
    """
    size = dist.get_world_size(group)
    if size == 1:
        return partial
    own = partial.new_empty((partial.shape[0] // size, *partial.shape[1:]))
    dist.reduce_scatter_tensor(own, partial, group=group)
    return own


def all_reduce_(
    values: torch.Tensor, operation: dist.ReduceOp.RedOpType, group: dist.ProcessGroup
) -> torch.Tensor:
    """Reduce `values` in place over the group.

    Cost: one all-reduce of `values`; none in a group of one rank.
    """
    if dist.get_world_size(group) > 1:
        dist.all_reduce(values, operation, group=group)
    return values


@dataclass(frozen=True)
class Gathering:
    """An all-gather under way."""

    parts: torch.Tensor
    local: torch.Tensor
    """Kept until the transfer is done with it."""
    work: dist.Work | None

    def wait(self) -> torch.Tensor:
        """Every rank's tensor, in rank order: [T, ...]. On a GPU, only its stream waits."""
        if self.work is not None:
            self.work.wait()
        return self.parts


def start_all_gather(local: torch.Tensor, group: dist.ProcessGroup) -> Gathering:
    """Begin to gather `local` from every rank, while this one computes on.

    Cost: one all-gather of `local`; none in a group of one rank.
    """
    size = dist.get_world_size(group)
    if size == 1:
        return Gathering(local[None], local, None)
    local = local.contiguous()
    rows = local.new_empty((size * local.shape[0], *local.shape[1:]))
    work = dist.all_gather_into_tensor(rows, local, group=group, async_op=True)
    return Gathering(rows.view(size, *local.shape), local, work)

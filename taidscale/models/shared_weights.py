"""Weights that one rank reads and hands to others, over the fabric instead of the file system."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from taidscale.models.weights import WeightFiles

_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Of what is read."""
_MOST_DIMENSIONS = 4


class SharedWeights:
    """The weights of a folder, on ranks that all want the same parts in the same order."""

    def __init__(
        self, files: WeightFiles, group: dist.ProcessGroup | None, device: torch.device
    ) -> None:
        """Let the first rank of a group read for all of it.

        Args:
            files: where they are; all ranks know their headers.
            group: of the ranks; None for all.
            device: on which parts travel, and are handed out.
        """
        self._files, self._group, self._device = files, group, device
        ranks = range(dist.get_world_size()) if group is None else _ranks_of(group)
        self._reader = ranks[0]

    @property
    def folder(self) -> Path:
        """Of the files."""
        return self._files.folder

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the weights."""
        return self._files.shapes

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str, rows: slice | None = None, dim: int = 0) -> torch.Tensor:
        """As `WeightFiles.read`, on the device.

        All ranks of the group call it alike.

        Raises:
            ValueError: on all of them, if the part cannot be read.

        Cost: two broadcasts in the group: of a few numbers, and of the part.
        """
        part, problem = None, ""
        if dist.get_rank() == self._reader:
            try:
                part = self._files.read(name, rows, dim).to(self._device).contiguous()
            except ValueError as error:
                problem = str(error)
        header = torch.zeros(2 + _MOST_DIMENSIONS, dtype=torch.int64, device=self._device)
        if part is not None:
            header[0] = 1 + _TYPES.index(part.dtype)
            header[1] = part.ndim
            header[2 : 2 + part.ndim] = torch.tensor(part.shape)
        dist.broadcast(header, self._reader, self._group)
        kind, dimensions, *sizes = header.tolist()
        if not kind:
            said = problem or f"rank {self._reader}, which reads it, cannot"
            raise ValueError(said if problem else f"{self.folder}: {name!r}: {said}")
        if part is None:
            part = torch.empty(sizes[:dimensions], dtype=_TYPES[kind - 1], device=self._device)
        dist.broadcast(part, self._reader, self._group)
        return part

    def close(self) -> None:
        """Let go of the file that was read last."""
        self._files.close()


def _ranks_of(group: dist.ProcessGroup) -> Sequence[int]:
    return dist.get_process_group_ranks(group)

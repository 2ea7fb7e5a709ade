"""How the fused head computes."""

from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.distributed as dist

from taidscale.losses.chunking import Chunking, uses_kernels
from taidscale.losses.vocabulary import Vocabulary


@dataclass(frozen=True)
class HeadSettings:
    """How the fused head computes; equal on all ranks of the tp_group."""

    vocabulary: Vocabulary
    group: dist.ProcessGroup
    logits_bytes: int = 2**30
    """See `Chunking`."""
    chunk_tokens: int | None = None
    """See `Chunking`."""
    softcap: float | None = None
    """Gemma 2's bound on the student's logits."""
    kernels: bool | None = None
    """See `chunking.uses_kernels`."""
    overlap: bool | None = None
    """See `Chunking`."""

    def chunking(self, device: torch.device) -> Chunking:
        """The sizes of chunks of logits on a device."""
        return Chunking(
            self.vocabulary.size,
            dist.get_world_size(self.group),
            device.type,
            self.logits_bytes,
            self.chunk_tokens,
            self.overlap,
        )

    def uses_kernels(self, logits: torch.Tensor) -> bool:
        """`kernels`, decided; they know no float64."""
        if logits.dtype == torch.float64:
            return False
        has_triton = find_spec("triton") is not None
        return uses_kernels(self.kernels, logits.device.type, has_triton=has_triton)

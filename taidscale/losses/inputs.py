"""What the fused head is given.

Shapes: N tokens of the tp_group, v vocabulary entries of this rank, Dt the teacher's hidden size.
"""

from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.distributed as dist

from taidscale.losses.chunk import tokens_per_chunk
from taidscale.losses.vocabulary import Vocabulary

IGNORED = -100
"""Label of a token that has no loss, as everywhere in the field."""


@dataclass(frozen=True)
class TeacherTokens:
    """What the loss needs of the teacher."""

    hidden: torch.Tensor
    """[N, Dt], equal on all ranks of the tp_group."""
    head_rows: torch.Tensor
    """[v, Dt], this rank's rows of its head."""
    softcap: float | None = None
    """Gemma 2's bound on logits: cap·tanh(z / cap)."""


@dataclass(frozen=True)
class HeadSettings:
    """How the fused head computes; equal on all ranks of the tp_group."""

    vocabulary: Vocabulary
    group: dist.ProcessGroup
    logits_bytes: int = 2**30
    """For the logits of a chunk, of both models, on one rank."""
    chunk_tokens: int | None = None
    """C; by default as many as `logits_bytes` allow."""
    softcap: float | None = None
    """Gemma 2's bound on the student's logits."""
    kernels: bool | None = None
    """Whether Triton's kernels compute what they can; by default on CUDA, where Triton is."""
    overlap: bool | None = None
    """Whether the next chunk's logits are computed while this one's moments travel, which takes
    a second pair of buffers; by default on CUDA, in groups of more than one rank.
    """

    def overlaps(self, device: torch.device) -> bool:
        """`overlap`, decided."""
        if self.overlap is not None:
            return self.overlap
        return device.type == "cuda" and dist.get_world_size(self.group) > 1

    def uses_kernels(self, logits: torch.Tensor) -> bool:
        """`kernels`, decided; they know no float64."""
        if logits.dtype == torch.float64:
            return False
        if self.kernels is not None:
            return self.kernels
        return logits.is_cuda and find_spec("triton") is not None

    def chunk_size(self, num_tokens: int, bytes_per_logit: int, device: torch.device) -> int:
        """C, equal on all ranks of the group.

        Args:
            num_tokens: N.
            bytes_per_logit: of all models together.
            device: of the logits.
        """
        if self.chunk_tokens is not None:
            return min(self.chunk_tokens, num_tokens)
        columns = -(-self.vocabulary.size // dist.get_world_size(self.group))  # the largest share
        buffers = 2 if self.overlaps(device) else 1
        bytes_per_token = columns * bytes_per_logit * buffers
        return tokens_per_chunk(num_tokens, bytes_per_token, self.logits_bytes)

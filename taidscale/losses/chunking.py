"""How many tokens' logits exist at once, and what computes them: for the loss and for the planner.

Shapes: N tokens of the tp_group, C tokens of a chunk, v columns of a rank.
"""

from dataclasses import dataclass

MULTIPLE = 128
"""Chunks are multiples of it, where they are larger: the tile of a GPU's matrix product."""
BLOCK_ELEMENTS = {"cpu": 2**18, "cuda": 2**24}
"""Logits that the plain arithmetic sees at once, so that its few temporaries stay small: within
a CPU's cache; on a GPU 64 MiB each in float32.
"""


@dataclass(frozen=True)
class Chunking:
    """The sizes of chunks: equal on all ranks of a tp_group, which need not agree on them."""

    vocab_size: int
    tp_size: int
    device: str
    """`cpu` or `cuda`."""
    logits_bytes: int = 2**30
    """For the logits of a chunk, of both models, on one rank."""
    chunk_tokens: int | None = None
    """C; by default as many as `logits_bytes` allow."""
    overlap: bool | None = None
    """Whether the next chunk's logits are computed while this one's moments travel, which takes
    a second pair of buffers; by default on CUDA, in groups of more than one rank.
    """

    @property
    def columns(self) -> int:
        """v of the rank with the most."""
        return -(-self.vocab_size // self.tp_size)

    @property
    def overlaps(self) -> bool:
        """`overlap`, decided."""
        if self.overlap is not None:
            return self.overlap
        return self.device == "cuda" and self.tp_size > 1

    def chunk_size(self, num_tokens: int, bytes_per_logit: int) -> int:
        """C.

        Args:
            num_tokens: N.
            bytes_per_logit: of all models together.
        """
        if self.chunk_tokens is not None:
            return min(self.chunk_tokens, num_tokens)
        bytes_per_token = self.columns * bytes_per_logit * (2 if self.overlaps else 1)
        return tokens_per_chunk(num_tokens, bytes_per_token, self.logits_bytes)

    def num_ahead(self, num_tokens: int, chunk_size: int) -> int:
        """Further chunks whose logits are there while one is computed: 0 or 1."""
        return 1 if self.overlaps and chunk_size < num_tokens else 0


def tokens_per_chunk(num_tokens: int, bytes_per_token: int, budget_bytes: int) -> int:
    """C: as few chunks as the budget allows, of about equal size.

    Args:
        num_tokens: N.
        bytes_per_token: of all logits of one token on the rank with the most columns.
        budget_bytes: for the logits of a chunk.
    """
    most = max(1, budget_bytes // bytes_per_token)
    multiple = MULTIPLE if most >= MULTIPLE else 1
    most = most // multiple * multiple
    num_chunks = -(-num_tokens // most)
    return min(num_tokens, -(-num_tokens // (num_chunks * multiple)) * multiple)


def padded_columns(num_columns: int) -> int:
    """Entries of a row of logits: rows begin at multiples of 64.

    With an odd number of columns (Qwen2.5 has 151,665 tokens) a GPU would use neither its fastest
    matrix products nor wide loads.
    """
    return -(-num_columns // 64) * 64


def uses_kernels(wanted: bool | None, device: str, *, has_triton: bool) -> bool:
    """Whether Triton's kernels compute what they can.

    Args:
        wanted: by default on CUDA, where Triton is.
        device: `cpu` or `cuda`.
        has_triton: whether it is installed there.
    """
    return device == "cuda" and has_triton if wanted is None else wanted

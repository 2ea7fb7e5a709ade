"""Adaptive KL: forward KL where the head of the distribution is off, reverse KL where the tail is.

Wu et al., arXiv:2404.02657. The head of a token is the fewest of the teacher's likeliest
entries that together hold at least μ = 0.5 of its mass; with g_head = Σ_head |p - q| and g_tail
likewise, D = (g_head·KL(p ‖ q) + g_tail·KL(q ‖ p)) / (g_head + g_tail), the two weights taken as
constants. Entries that are equally likely are in the head together or not at all, so that the
order of the vocabulary does not matter.

Which entries are in the head would take a sort of the whole vocabulary. A radix selection
does without: the bits of a positive float grow with it, so histograms of the mass over 8 bits at
a time find the smallest probability of the head, in as many small all-reduces as it has bytes.
"""

from dataclasses import dataclass
from functools import partial

import torch

from taidscale.losses.chunk import Chunk
from taidscale.losses.columns import Columns
from taidscale.losses.divergence import Divergence, dense_kl

BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
"""The integers that share a float's bits."""

UNITS = 2**40
"""Masses are counted in whole units of 1/UNITS, so that sums do not depend on their order."""


@dataclass(frozen=True)
class AdaptiveKL(Divergence):
    """Forward and reverse KL, weighted by how far head and tail are off."""

    head_mass: float
    """μ in (0, 1)."""

    def statistics(self, chunk: Chunk) -> torch.Tensor:
        """Gaps of head and tail, forward KL and reverse KL.

        Cost: all-reduces SUM of [256, C], 4 in float32 and 8 in float64, and one of [4, C].
        """
        smallest = smallest_of_head(chunk, self.head_mass)

        def sums(columns: Columns) -> torch.Tensor:
            log_p, log_q = columns.log_p(), columns.log_q()
            p, q = log_p.exp(), log_q.exp()
            gap = (p - q).abs_()
            head = p >= smallest[columns.rows, None]
            difference = log_p.sub_(log_q)
            return torch.stack(
                [
                    (gap * head).sum(1),
                    gap.masked_fill_(head, 0.0).sum(1),
                    (p * difference).sum(1),
                    -(q * difference).sum(1),
                ]
            )

        return chunk.sum(sums)

    def dense(self, log_p: torch.Tensor, log_q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        del labels
        p, q = log_p.exp(), log_q.exp()
        ordered, order = p.sort(1, descending=True)
        in_head = (ordered.cumsum(1) - ordered < self.head_mass).to(p)
        gap = (p - q).abs().detach()
        head = (gap * torch.zeros_like(p).scatter(1, order, in_head)).sum(1) / gap.sum(1)
        return head * dense_kl(log_p, log_q) + (1 - head) * dense_kl(log_q, log_p)

    def value(self, statistics: torch.Tensor) -> torch.Tensor:
        """D."""
        forward_weight = _forward_weight(statistics)
        return forward_weight * statistics[2] + (1 - forward_weight) * statistics[3]

    def gradient(self, columns: Columns, statistics: torch.Tensor) -> torch.Tensor:
        """w·(q - p) + (1-w)·q·(log q - log p - KL(q ‖ p)), w the weight of forward KL."""
        log_p, log_q = columns.log_p(), columns.log_q()
        p, q = log_p.exp(), log_q.exp()
        forward_weight = _forward_weight(statistics)[:, None]
        reverse = log_q.sub_(log_p).sub_(statistics[3][:, None]).mul_(q)
        return q.sub_(p).mul_(forward_weight).add_(reverse.mul_(1 - forward_weight))


def _forward_weight(statistics: torch.Tensor) -> torch.Tensor:
    head, tail = statistics[:2]
    total = head + tail
    return torch.where(total > 0, head / total, 0.5)


def smallest_of_head(chunk: Chunk, mass: float) -> torch.Tensor:
    """The teacher's probability of the least likely entry of each token's head: [C].

    Cost: an all-reduce SUM of [256, C] for each byte of a probability.
    """
    wide = torch.promote_types(chunk.student.dtype, torch.float32)
    prefix = torch.zeros(len(chunk.labels), dtype=BITS[wide], device=chunk.student.device)
    above = torch.zeros_like(prefix, dtype=torch.int64)
    for shift in range(8 * wide.itemsize - 8, -8, -8):
        histogram = partial(_masses_by_byte, prefix=prefix, shift=shift)
        masses = chunk.sum(histogram).flip(0)  # the largest byte first
        reached = (above + masses.cumsum(0) >= mass * UNITS).to(torch.int64)
        # Where rounding keeps the whole mass below `mass`, all entries are the head.
        place = torch.where(reached.any(0), reached.argmax(0), 255)
        before = masses.cumsum(0).sub_(masses).gather(0, place[None])[0]
        above = above + before
        prefix |= (255 - place).to(prefix.dtype) << shift
    return prefix.view(wide)


def _masses_by_byte(columns: Columns, *, prefix: torch.Tensor, shift: int) -> torch.Tensor:
    """The mass for each value of the byte at `shift`, in units: [256, C] int64.

    Of the entries whose higher bytes are the prefix's.
    """
    p = columns.log_p().exp_()
    bits = p.view(prefix.dtype)
    same = (bits >> shift >> 8) == (prefix[columns.rows, None] >> shift >> 8)
    byte = (bits >> shift).bitwise_and_(255).long()
    mass = torch.where(same, p, 0.0).mul_(UNITS).long()
    return mass.new_zeros(len(p), 256).scatter_add_(1, byte, mass).t()

"""Mixtures of two distributions, exactly where they hardly differ and where they differ most."""

from math import log, log1p

import torch

ENDS = 0.05
"""Shares closer to 0 or 1 take more care, and time."""


def log_power_mean(difference: torch.Tensor, share: float, exponent: float = 1.0) -> torch.Tensor:
    """Log of (share·p^a + (1-share)·q^a)^(1/a) / q; of p^share·q^(1-share) / q for a = 0.

    Written around the larger of p and q, so that it cannot overflow, and with the difference
    inside, so that its error shrinks with the share of p and for p near q.

    Args:
        difference: log p - log q, any shape; not changed.
        share: of p, from 0 to 1.
        exponent: a.

    Returns:
        A new tensor.
    """
    if exponent == 0.0 or share in (0.0, 1.0):
        return difference * share
    scaled = difference * exponent
    p_leads = scaled > 0

    def by_leader(of_p: float, of_q: float) -> torch.Tensor:
        return torch.where(p_leads, scaled.new_full((), of_p), scaled.new_full((), of_q))

    # log(first + second·e^-gap), first and second the shares of the larger and the smaller term.
    gap = scaled.abs()
    mean = gap.neg().expm1_().mul_(by_leader(1 - share, share)).log1p_()
    if not ENDS <= share <= 1 - ENDS:  # 1 + second·(e^-gap - 1) would lose a small first
        first = by_leader(log(share), log1p(-share))
        far = torch.logaddexp(first, by_leader(log1p(-share), log(share)).sub_(gap))
        mean = torch.where(gap < 1.0, mean, far)
    mean.div_(exponent)
    return mean.add_(difference.masked_fill(~p_leads, 0.0))

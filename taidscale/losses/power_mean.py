"""Mixtures of two distributions, exactly where they hardly differ and where they differ most."""

import torch


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
    inner = scaled.abs().neg_().expm1_()
    shares = torch.where(p_leads, inner.new_tensor(1 - share), inner.new_tensor(share))
    mean = inner.mul_(shares).log1p_().div_(exponent)
    return mean.add_(difference.masked_fill(~p_leads, 0.0))

"""Every loss as one would write it down: full logits, autograd, no shortcuts.

Shapes: N tokens, V vocabulary entries.
"""

import torch

from taidscale.labels import IGNORED
from taidscale.losses.objective import Objective


def dense_losses(
    objective: Objective, z_s: torch.Tensor, z_t: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    """Loss of each token: [N], 0 where it has no label; gradient reaches `z_s` alone."""
    tau, weight = objective.temperature, objective.cross_entropy_weight
    losses = weight * torch.nn.functional.cross_entropy(
        z_s, labels, reduction="none", ignore_index=IGNORED
    )
    if objective.divergence is not None:
        assert z_t is not None
        log_p, log_q = (z_t.detach() / tau).log_softmax(1), (z_s / tau).log_softmax(1)
        d = objective.divergence.dense(log_p, log_q, labels)
        losses = losses + (1 - weight) * tau**2 * d
    return losses.where(labels != IGNORED, 0.0)

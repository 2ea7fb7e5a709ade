"""Which experts a token of a mixture goes to, and with what weights.

Shapes: n tokens, D hidden size, E experts, k experts of a token.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

_MIN_SUM = 1e-20
"""Added to a sum of sigmoids before something is divided by it, as transformers does."""


@dataclass(frozen=True)
class Routing:
    """How a router's logits become experts and weights."""

    num_experts: int
    """E."""
    experts_per_token: int
    """k."""
    normalised: bool
    """Whether the weights of a token's experts add up to one, before `factor`."""
    by_sigmoid: bool = False
    """Scores of each expert alone, ranked with a bias and within groups (DeepSeek-V3,
    arXiv:2412.19437, section 2.1.2); else a softmax over all experts."""
    num_groups: int = 1
    groups_per_token: int = 1
    factor: float = 1.0


def routing_of(config: PretrainedConfig) -> Routing:
    """The routing that a configuration describes.

    Raises:
        ValueError: if it is of no family with experts that is known.
    """
    family, k = config.model_type, getattr(config, "num_experts_per_tok", 0)
    match family:
        case "mixtral":
            return Routing(config.num_local_experts, k, normalised=True)
        case "qwen2_moe" | "qwen3_moe":
            return Routing(config.num_experts, k, normalised=config.norm_topk_prob)
        case "deepseek_v3" | "glm4_moe":
            return Routing(
                config.n_routed_experts,
                k,
                normalised=config.norm_topk_prob,
                by_sigmoid=True,
                num_groups=config.n_group,
                groups_per_token=config.topk_group,
                factor=config.routed_scaling_factor,
            )
    raise ValueError(f"no routing is known for the experts of {family!r}")


class Router(nn.Module):
    """The whole router, on every rank: all of them choose the same experts."""

    def __init__(self, routing: Routing, hidden_size: int, **kind: Any) -> None:
        """Make one without weights.

        Args:
            routing: how it chooses.
            hidden_size: D.
            kind: type and device of its weight.
        """
        super().__init__()
        self.routing = routing
        self.weight = nn.Parameter(torch.empty(routing.num_experts, hidden_size, **kind))
        if routing.by_sigmoid:
            kind = {**kind, "dtype": torch.float32}
            self.e_score_correction_bias = nn.Parameter(torch.empty(routing.num_experts, **kind))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Experts [n, k] and their weights [n, k], in float32, of tokens [n, D]."""
        chosen, weights = (
            self._by_sigmoid(tokens) if self.routing.by_sigmoid else self._by_softmax(tokens)
        )
        return chosen, weights * self.routing.factor

    def _by_softmax(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = nn.functional.linear(tokens, self.weight).softmax(-1, dtype=torch.float32)
        weights, chosen = scores.topk(self.routing.experts_per_token, dim=-1)
        if self.routing.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        return chosen, weights

    def _by_sigmoid(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The bias and the groups decide which experts, the scores alone their weights.

        No expert of another group is ever chosen, as DeepSeek-V3 (section 2.1.2) and transformers
        5 have it; transformers 4 ranks those with 0, above experts whose score and bias add up to
        less.
        """
        routing = self.routing
        scores = nn.functional.linear(tokens.float(), self.weight.float()).sigmoid()
        ranked = scores + self.e_score_correction_bias
        if routing.num_groups > 1:
            groups = ranked.view(len(ranked), routing.num_groups, -1)
            best = groups.topk(2, dim=-1).values.sum(-1).topk(routing.groups_per_token, dim=-1)
            kept = torch.zeros_like(groups[..., 0], dtype=torch.bool)
            kept.scatter_(-1, best.indices, value=True)
            ranked = groups.masked_fill(~kept[..., None], -torch.inf).flatten(-2)
        chosen = ranked.topk(routing.experts_per_token, dim=-1).indices
        weights = scores.gather(-1, chosen)
        if routing.normalised:
            weights = weights / (weights.sum(-1, keepdim=True) + _MIN_SUM)
        return chosen, weights

"""What the parts of a layer are, and how large a `config.json` makes them.

H is the number of query heads, K that of key-value heads.
"""

import math
from dataclasses import dataclass
from typing import Literal

from transformers import PretrainedConfig

from taidscale.models.layer_styles import LayerStyle

Share = Literal["heads", "columns", "whole"]
"""How tensor parallelism divides a parameter: by heads, by columns of its MLP, or not."""


@dataclass(frozen=True)
class Parameter:
    """A tensor of a layer, or as many equal ones as there are experts."""

    name: str
    """Below the layer; `*` stands for the number of an expert or head."""
    shape: tuple[int, ...]
    share: Share = "whole"
    width: int = 0
    """Columns of the MLP whose columns are divided."""
    multiplies: bool = False
    """Whether hidden states are multiplied by it, as by a matrix."""
    copies: int = 1
    active: int = 1
    """Of the copies, those that a token meets."""

    @property
    def size(self) -> int:
        """Elements of one copy."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Attention:
    """The attention of all layers."""

    num_heads: int
    """H."""
    num_kv_heads: int
    """K."""
    key_dim: int
    """Elements of a head's query, and of its key."""
    value_dim: int
    query_rank: int = 0
    """Elements that queries are made of; 0 where they come from the hidden state."""
    latent_rank: int = 0
    """Elements that keys and values are made of (DeepSeek-V2, arXiv:2405.04434, section 2.1);
    0 where they come from the hidden state."""
    rotary_dim: int = 0
    """Of them, with latent keys, those that turn and that all heads share."""

    @property
    def query_size(self) -> int:
        """Elements of all queries of a token."""
        return self.num_heads * self.key_dim

    @property
    def kv_size(self) -> int:
        """Elements of all keys of a token; without latent keys there are as many of values."""
        return self.num_kv_heads * self.key_dim

    @property
    def value_size(self) -> int:
        """Elements of what the heads of a token give."""
        return self.num_heads * self.value_dim


@dataclass(frozen=True)
class Experts:
    """The experts of a sparse layer."""

    number: int
    active: int
    """That a token goes to."""
    width: int
    """Columns of each."""
    shared_width: int | None = None
    """Columns of the MLP that all tokens go to besides; None where there is none."""


@dataclass(frozen=True)
class LayerShape:
    """A layer of one kind."""

    parameters: tuple[Parameter, ...]
    window: int | None
    """Keys that a query sees at most, itself included; None for all before it."""
    experts: Experts | None
    """None in a dense layer."""

    @property
    def size(self) -> int:
        """All elements."""
        return sum(p.size * p.copies for p in self.parameters)


def attention_shape(config: PretrainedConfig, style: LayerStyle) -> Attention:
    """The attention of a model."""
    heads = config.num_attention_heads
    if not style.qkv:
        return Attention(
            heads,
            heads,
            config.qk_nope_head_dim + config.qk_rope_head_dim,
            config.v_head_dim,
            config.q_lora_rank or 0,
            config.kv_lora_rank,
            config.qk_rope_head_dim,
        )
    free = getattr(config, "head_dim", None) if style.head_dim_is_free else None
    dim = free or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    if config.model_type == "gpt_neox":
        groups = heads
    return Attention(heads, groups, dim, dim)


def experts_of(config: PretrainedConfig) -> Experts | None:
    """The experts of a model's sparse layers; None where its family has none."""
    match config.model_type:
        case "mixtral":
            return Experts(
                config.num_local_experts, config.num_experts_per_tok, config.intermediate_size
            )
        case "qwen2_moe" | "qwen3_moe":
            shared = getattr(config, "shared_expert_intermediate_size", None)
            return Experts(
                config.num_experts,
                config.num_experts_per_tok,
                config.moe_intermediate_size,
                shared if config.model_type == "qwen2_moe" else None,
            )
        case "glm4_moe" | "deepseek_v3":
            width = config.moe_intermediate_size
            return Experts(
                config.n_routed_experts,
                config.num_experts_per_tok,
                width,
                width * config.n_shared_experts,
            )
    return None

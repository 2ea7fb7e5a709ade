"""The sizes of a model, out of its `config.json` alone: which tensors it has, and how large."""

import math
from dataclasses import dataclass

from transformers import PretrainedConfig

from taidscale.models.families import attention_for


@dataclass(frozen=True)
class ModelShape:
    """A causal language model of one of the understood families."""

    family: str
    """`model_type` of its `config.json`."""
    vocab_size: int
    """Rows of the head, padding included."""
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    tied: bool
    """Whether the head is the input embedding."""
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norms: bool = False
    """Whether queries and keys of each head are normalised."""
    norms_per_layer: int = 2
    whole_scores: bool = False
    """Whether attention computes all of its scores at once, as where they are capped."""

    @property
    def query_size(self) -> int:
        """Elements of all queries of a token."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Elements of all keys, or values, of a token."""
        return self.num_kv_heads * self.head_dim

    def layer_tensors(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter of one layer."""
        d, q, kv, ff = self.hidden_size, self.query_size, self.kv_size, self.intermediate_size
        tensors: dict[str, tuple[int, ...]] = {
            "q_proj": (q, d),
            "k_proj": (kv, d),
            "v_proj": (kv, d),
            "o_proj": (d, q),
            "gate_proj": (ff, d),
            "up_proj": (ff, d),
            "down_proj": (d, ff),
        }
        biased = {"q_proj": self.qkv_bias, "k_proj": self.qkv_bias, "v_proj": self.qkv_bias}
        biased |= {"o_proj": self.output_bias}
        biased |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), self.mlp_bias)
        tensors |= {f"{name}.bias": tensors[name][:1] for name, has in biased.items() if has}
        tensors |= {f"norm {number}": (d,) for number in range(self.norms_per_layer)}
        if self.qk_norms:
            tensors |= {"q_norm": (self.head_dim,), "k_norm": (self.head_dim,)}
        return tensors

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer."""
        return sum(math.prod(shape) for shape in self.layer_tensors().values())

    @property
    def head_parameters(self) -> int:
        """Of the head; as many has the embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All of them; a tied head counts once."""
        ends = self.head_parameters * (1 if self.tied else 2) + self.hidden_size
        return self.num_layers * self.layer_parameters + ends

    @property
    def matmul_parameters(self) -> int:
        """Those that multiply each token: matrices of the layers, and the head."""
        layer = sum(math.prod(s) for s in self.layer_tensors().values() if len(s) > 1)
        return self.num_layers * layer + self.head_parameters


def model_shape(config: PretrainedConfig, attention: str = "sdpa") -> ModelShape:
    """The shape that transformers would build from a `config.json`.

    Args:
        config: of the model.
        attention: implementation that the run asks for.
    """
    heads = config.num_attention_heads
    biased = bool(getattr(config, "attention_bias", False))
    return ModelShape(
        family=config.model_type,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        tied=config.tie_word_embeddings,
        qkv_bias=biased or config.model_type == "qwen2",
        output_bias=biased and config.model_type != "qwen2",
        mlp_bias=bool(getattr(config, "mlp_bias", False)),
        qk_norms=config.model_type == "qwen3",
        norms_per_layer=4 if config.model_type == "gemma2" else 2,
        whole_scores=attention_for(config, attention) == "eager",
    )

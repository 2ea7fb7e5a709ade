"""The sizes of a model, out of its `config.json` alone: which tensors it has, and how large."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from transformers import PretrainedConfig

from taidscale.models.families import attention_for
from taidscale.models.layer_parts import Attention, LayerShape, Parameter, attention_shape
from taidscale.models.layer_shapes import layer_shapes, norm
from taidscale.models.layer_styles import LAYER_STYLES, HeadNorm, LayerStyle, switched


@dataclass(frozen=True)
class ModelShape:
    """A causal language model of one of the understood families."""

    family: str
    """`model_type` of its `config.json`."""
    vocab_size: int
    """Rows of the head, padding included."""
    hidden_size: int
    intermediate_size: int
    """Columns of the MLP of its dense layers."""
    attention: Attention
    layers: tuple[tuple[LayerShape, int], ...]
    """Its kinds of layers, and how many there are of each."""
    tied: bool
    """Whether the head is the input embedding."""
    style: LayerStyle
    """How its family writes layers."""
    parallel: bool = False
    """Whether attention and MLP of a layer read the same hidden state."""
    norms_heads: bool = False
    """Whether queries and keys are normalised."""
    activation: str = "silu"
    """`hidden_act`."""
    masks: Literal["none", "windows", "all"] = "windows"
    """Which layers get a mask besides what is causal: with flash attention none; all of them where
    attention stays within documents."""
    whole_scores: bool = False
    """Whether attention computes all of its scores at once, as where they are capped."""

    @cached_property
    def num_layers(self) -> int:
        """Of all kinds."""
        return sum(number for _, number in self.layers)

    @property
    def num_heads(self) -> int:
        """Query heads of a layer."""
        return self.attention.num_heads

    @property
    def num_kv_heads(self) -> int:
        """Key-value heads of a layer."""
        return self.attention.num_kv_heads

    @cached_property
    def is_sparse(self) -> bool:
        """Whether any of its layers is a mixture of experts."""
        return any(layer.experts is not None for layer, _ in self.layers)

    @cached_property
    def ends(self) -> tuple[Parameter, ...]:
        """Parameters that are in no layer, without embedding and head."""
        last = norm(self.style.last_norm, self.hidden_size, self.style)
        bias = [Parameter("head bias", (self.vocab_size,))] if self.style.head_bias else []
        return (*last, *bias)

    @cached_property
    def layer_parameters(self) -> int:
        """Of the largest layer."""
        return max(layer.size for layer, _ in self.layers)

    @cached_property
    def trunk_parameters(self) -> int:
        """Of all layers."""
        return sum(number * layer.size for layer, number in self.layers)

    @property
    def head_parameters(self) -> int:
        """Of the head's matrix; as many has the embedding."""
        return self.vocab_size * self.hidden_size

    @cached_property
    def num_parameters(self) -> int:
        """All of them; a tied head counts once, buffers do not count."""
        ends = self.head_parameters * (1 if self.tied else 2) + sum(p.size for p in self.ends)
        return self.trunk_parameters + ends

    @cached_property
    def active_parameters(self) -> int:
        """Those that a token meets: all but the experts that it does not go to."""
        idle = sum(
            number * sum(p.size * (p.copies - p.active) for p in layer.parameters)
            for layer, number in self.layers
        )
        return self.num_parameters - idle

    @cached_property
    def matmul_parameters(self) -> int:
        """Those that multiply each token: matrices of the layers that it meets, and the head."""
        layers = sum(
            number * sum(p.size * p.active for p in layer.parameters if p.multiplies)
            for layer, number in self.layers
        )
        return layers + self.head_parameters


def model_shape(
    config: PretrainedConfig, attention: str = "sdpa", *, within_document: bool = False
) -> ModelShape:
    """The shape that transformers would build from a `config.json`.

    Args:
        config: of the model.
        attention: implementation that the run asks for.
        within_document: whether attention does not leave documents.

    Raises:
        ValueError: if nothing is known of the layers of its family.
    """
    style = LAYER_STYLES.get(config.model_type)
    if style is None:
        raise ValueError(
            f"architecture {config.model_type!r}: the sizes of its layers are not known; these "
            f"are: {', '.join(LAYER_STYLES)}"
        )
    found = attention_shape(config, style)
    masks: Literal["none", "windows", "all"] = "all" if within_document else "windows"
    if attention == "flash_attention_2":
        masks = "none"
    return ModelShape(
        family=config.model_type,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        attention=found,
        layers=layer_shapes(config, style, found),
        tied=config.tie_word_embeddings,
        style=style,
        parallel=switched(config, style.parallel),
        norms_heads=style.head_norm is not HeadNorm.NONE and switched(config, style.head_norm_if),
        activation=getattr(config, "hidden_activation", None) or config.hidden_act,
        masks=masks,
        whole_scores=attention_for(config, attention) == "eager",
    )

"""What the parts of a causal language model are called in its files."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PartNames:
    """Names of a family's parts."""

    trunk: str = "model"
    embedding: str = "embed_tokens"
    """Within the trunk."""
    head: str = "lm_head"

    @property
    def embedding_weight(self) -> str:
        """Of the input embedding."""
        return f"{self.trunk}.{self.embedding}.weight"

    @property
    def head_weight(self) -> str:
        """Of the head, where it is not the embedding."""
        return f"{self.head}.weight"

    @property
    def layers(self) -> str:
        """What the names of layers begin with; a number follows."""
        return f"{self.trunk}.layers."


def part_names(model_type: str) -> PartNames:
    """The names in a family."""
    if model_type == "gpt_neox":
        return PartNames("gpt_neox", "embed_in", "embed_out")
    return PartNames()


def trunk_of(model: Any) -> Any:
    """The model without its head, [B, S] ids to hidden states."""
    return getattr(model, part_names(model.config.model_type).trunk)


def head_of(model: Any) -> Any:
    """Its head, a linear layer."""
    return model.get_output_embeddings()

"""The one place where a trunk is called: from token ids to hidden states.

Shapes: B sequences of S tokens, D the hidden size.
"""

from typing import Any

import torch
from transformers import PretrainedConfig

BLIND_TO_DOCUMENTS = frozenset({"nemotron", "qwen2_moe", "stablelm"})
"""Families whose masks transformers builds without a look at positions."""


def hidden_states(
    trunk: Any, input_ids: torch.Tensor, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """The last hidden states of B sequences, token after token: [B·S, D].

    Args:
        trunk: of a Hugging Face model, embedding and layers.
        input_ids: [B, S] without padding, or with padding that nothing else sees.
        positions: [B, S], from 0 in each document, which attention then does not leave; None
            where it sees everything before.
    """
    return from_embeddings(trunk, trunk.get_input_embeddings()(input_ids), positions)


def from_embeddings(
    trunk: Any, embeddings: torch.Tensor, positions: torch.Tensor | None
) -> torch.Tensor:
    """The same from embeddings, [B, S, D], as the trunk's embedding gives them."""
    output = trunk(**trunk_inputs(embeddings, positions, trunk.config))
    hidden: torch.Tensor = output.last_hidden_state.flatten(0, 1)
    return hidden


def trunk_inputs(
    embeddings: torch.Tensor, positions: torch.Tensor | None, config: PretrainedConfig
) -> dict[str, Any]:
    """What a trunk is called with, so that its hidden states, flattened, are those of the tokens.

    Without positions a mask of ones says that nothing is padded or packed. Without any mask,
    transformers looks for packed documents in the positions: it builds a [B, S, S] mask of
    blocks, with which SDPA leaves its fast path, or has flash-attention see one long row of
    documents. Some families do not look for them, and are given the mask.

    Args:
        embeddings: [B, S, D].
        positions: see `hidden_states`.
        config: of the trunk, with the implementation of attention in use.

    Raises:
        ValueError: if a family cannot keep documents apart with flash-attention.
    """
    if positions is None:
        ones = torch.ones(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device)
        return {"inputs_embeds": embeddings, "attention_mask": ones, "use_cache": False}
    inputs = {"inputs_embeds": embeddings, "position_ids": positions, "use_cache": False}
    blind = config.model_type in BLIND_TO_DOCUMENTS
    if config._attn_implementation == "flash_attention_2":
        if blind:
            raise ValueError(
                f"flash_attention_2: {config.model_type} cannot keep documents apart with it; set "
                "attention: sdpa for the model, or data.attention: across_documents"
            )
        row, places = embeddings.flatten(0, 1)[None], positions.reshape(1, -1)
        return inputs | {"inputs_embeds": row, "position_ids": places}
    return inputs | ({"attention_mask": _blocks(embeddings, positions)} if blind else {})


def _blocks(embeddings: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """A mask to be added to scores, [B, 1, S, S]: each token sees its document up to itself."""
    document = (positions == 0).cumsum(1)
    seen = (document[:, :, None] == document[:, None, :]).tril()
    mask = torch.zeros_like(seen, dtype=embeddings.dtype)
    return mask.masked_fill_(~seen, torch.finfo(embeddings.dtype).min)[:, None]

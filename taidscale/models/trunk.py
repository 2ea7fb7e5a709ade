"""The one place where a trunk is called: from token ids to hidden states.

Shapes: B sequences of S tokens, D the hidden size.
"""

from typing import Any

import torch


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
    attention = trunk.config._attn_implementation
    output = trunk(**trunk_inputs(embeddings, positions, attention))
    hidden: torch.Tensor = output.last_hidden_state.flatten(0, 1)
    return hidden


def trunk_inputs(
    embeddings: torch.Tensor, positions: torch.Tensor | None, attention: str
) -> dict[str, Any]:
    """What a trunk is called with, so that its hidden states, flattened, are those of the tokens.

    Without positions a mask of ones says that nothing is padded or packed. Without any mask,
    transformers looks for packed documents in the positions: it builds a [B, S, S] mask of
    blocks, with which SDPA leaves its fast path, or has flash-attention see one long row of
    documents.

    Args:
        embeddings: [B, S, D].
        positions: see `hidden_states`.
        attention: implementation of transformers in use.
    """
    if positions is None:
        ones = torch.ones(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device)
        return {"inputs_embeds": embeddings, "attention_mask": ones, "use_cache": False}
    if attention == "flash_attention_2":
        embeddings, positions = embeddings.flatten(0, 1)[None], positions.reshape(1, -1)
    return {"inputs_embeds": embeddings, "position_ids": positions, "use_cache": False}

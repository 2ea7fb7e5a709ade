"""What a whole head makes of hidden states, dense: for measuring, not for training."""

import torch
from transformers import PreTrainedModel

from taidscale.models.families import logit_scale, logit_softcap
from taidscale.models.part_names import head_of


def head_logits(model: PreTrainedModel, hidden: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Logits of the first entries of the vocabulary, scaled and bounded: [N, V] in float32.

    Args:
        model: whose head it is.
        hidden: [N, D], the trunk's.
        vocab_size: V.
    """
    head = head_of(model)
    logits: torch.Tensor = (hidden @ head.weight[:vocab_size].T).float()
    if head.bias is not None:
        logits += head.bias[:vocab_size]
    logits *= logit_scale(model.config)
    cap = logit_softcap(model.config)
    return logits if cap is None else cap * (logits / cap).tanh()

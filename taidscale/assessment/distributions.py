"""How likely a model finds passages, and how far its predictions are from the teacher's.

Shapes: B windows side by side, W tokens that a window predicts at most, V entries of the tokenizer,
C tokens of a chunk, U ids that teacher and student share, of V at most.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from taidscale.assessment.subjects import enough_memory
from taidscale.data.tokenizer import Tokenizer
from taidscale.labels import IGNORED
from taidscale.models.head import head_logits
from taidscale.models.part_names import trunk_of
from taidscale.models.trunk import hidden_states

CHUNK_ELEMENTS = 1 << 23
"""C times V: each buffer of logits takes 4 bytes for one."""
Sums = dict[str, NDArray[np.float64]]
"""Name of a figure to its sum over the tokens of each passage."""


@dataclass(frozen=True)
class Window:
    """Tokens that are scored in one go."""

    passage: int
    ids: list[int]
    """What precedes the first scored token, and the scored tokens."""


def cut_windows(
    passages: Sequence[str], tokenizer: Tokenizer, max_tokens: int
) -> tuple[list[Window], list[int]]:
    """Every token of every passage once, the first after the token that begins texts.

    That is the beginning-of-sequence token where the tokenizer has one, else the one that ends
    documents. A passage longer than a window goes on in the next, which sees one token of the
    last.

    Returns:
        The windows, and the bytes of each passage.

    Raises:
        ValueError: The tokenizer has neither token.
    """
    first = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    if first is None:
        raise ValueError(
            f"the tokenizer of {tokenizer.name} has neither a bos_token nor an eos_token, and "
            "nothing can stand before the first token of a text; set one in tokenizer_config.json"
        )
    windows = []
    for number, ids in enumerate(tokenizer.encode_batch(list(passages))):
        ids = [first, *ids]
        for start in range(0, len(ids) - 1, max_tokens):
            windows.append(Window(number, ids[start : start + max_tokens + 1]))
    return windows, [len(passage.encode()) for passage in passages]


@enough_memory()
def score_passages(
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    windows: Sequence[Window],
    *,
    vocab_size: int,
    shared_size: int | None = None,
    batch_size: int,
    top_k: int,
    title: str,
) -> Sums:
    """Sums over the tokens of each passage, by name of the figure; `tokens` is their number.

    Args:
        student: The model that is measured.
        teacher: To compare with, on the same device; it shares the first U ids of the student,
            and the windows hold no others.
        windows: Of all passages.
        vocab_size: V; padding of the heads beyond it is left out.
        shared_size: U; by default V.
        batch_size: B.
        top_k: Likeliest tokens whose overlap is counted.
        title: Of the progress bar.
    """
    num_passages = 1 + max(window.passage for window in windows)
    sums: Sums = {}
    compared = vocab_size if shared_size is None else shared_size
    # The longest first: what does not fit fails at once, and little is padding.
    order = sorted(windows, key=lambda window: -len(window.ids))
    with torch.inference_mode(), tqdm(total=len(order), desc=title, unit="window") as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids, labels = _side_by_side(rows, student.device)
            passages = torch.tensor([row.passage for row in rows]).repeat_interleave(ids.shape[1])
            models = [model for model in (student, teacher) if model is not None]
            hidden = [hidden_states(trunk_of(model), ids) for model in models]
            keep = (labels != IGNORED).flatten().nonzero().squeeze(1)
            for chunk in torch.split(keep, max(1, CHUNK_ELEMENTS // vocab_size)):
                figures = compare_logits(
                    head_logits(student, hidden[0][chunk], vocab_size),
                    None if teacher is None else head_logits(teacher, hidden[1][chunk], compared),
                    labels.flatten()[chunk],
                    top_k,
                )
                places = passages[chunk.cpu()].numpy()
                for name, values in figures.items():
                    total = sums.setdefault(name, np.zeros(num_passages))
                    np.add.at(total, places, values.double().cpu().numpy())
            bar.update(len(rows))
    return sums


def compare_logits(
    student: Tensor, teacher: Tensor | None, labels: Tensor, top_k: int
) -> dict[str, Tensor]:
    """Figures of each token, in nats where they are no counts.

    With p the teacher's distribution, q the student's and m = (p + q)/2: forward_kl is
    KL(p ‖ q), reverse_kl KL(q ‖ p), js (KL(p ‖ m) + KL(q ‖ m))/2, at most log 2. Beside a
    teacher all but nats is of distributions over the U ids.

    Args:
        student: [C, V] float32 logits, or float64.
        teacher: [C, U] the same of the teacher.
        labels: [C] int64, below U where there is a teacher.
        top_k: Of `topk_agreement`, the shared part of the k likeliest tokens.
    """
    log_q = student.log_softmax(-1)
    nats = -log_q.gather(1, labels[:, None]).squeeze(1)
    if teacher is not None and teacher.shape[1] < student.shape[1]:
        log_q = student[:, : teacher.shape[1]].log_softmax(-1)
    q = log_q.exp()
    figures = {
        "tokens": torch.ones_like(nats),
        "nats": nats,
        "entropy": -(q * log_q).sum(-1),
    }
    if teacher is None:
        return figures
    log_p = teacher.log_softmax(-1)
    p = log_p.exp()
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    top_p, top_q = (logits.topk(top_k, dim=-1).indices for logits in (log_p, log_q))
    shared = (top_p[:, :, None] == top_q[:, None, :]).sum((1, 2))
    return figures | {
        "teacher_nats": -log_p.gather(1, labels[:, None]).squeeze(1),
        "teacher_entropy": -(p * log_p).sum(-1),
        "forward_kl": (p * (log_p - log_q)).sum(-1),
        "reverse_kl": (q * (log_q - log_p)).sum(-1),
        "js": ((p * (log_p - log_m)).sum(-1) + (q * (log_q - log_m)).sum(-1)) / 2,
        "top1_agreement": (log_p.argmax(-1) == log_q.argmax(-1)).to(p.dtype),
        "topk_agreement": shared.to(p.dtype) / top_k,
    }


def context_length(model: Any, wanted: int) -> int:
    """Tokens of a window: what is wanted, or what the model has places for."""
    return min(wanted, int(model.config.max_position_embeddings))


def _side_by_side(rows: Sequence[Window], device: torch.device) -> tuple[Tensor, Tensor]:
    """[B, W] ids, and labels; to the right of a shorter window is padding."""
    width = max(len(row.ids) for row in rows) - 1
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    for number, row in enumerate(rows):
        tokens = torch.tensor(row.ids)
        ids[number, : len(tokens) - 1] = tokens[:-1]
        labels[number, : len(tokens) - 1] = tokens[1:]
    return ids.to(device), labels.to(device)

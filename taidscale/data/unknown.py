"""How much of a text does its tokenizer not know?

What no token stands for becomes one unknown token, or nothing at all: the text cannot be got back,
and a model learns nothing from it. Tokens per character fall, so a tokenizer looks the better the
more it loses.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from taidscale.data.counts import Counts
from taidscale.data.tokenizer import Tokenizer

WARNED_SHARE = 0.001
"""Of the characters; a larger one is worth a warning."""
ALLOWED_SHARE = 0.02
"""Of the characters; a larger one stops a preparation, unless more is allowed."""
NUM_SHOWN = 3


@dataclass(frozen=True)
class Unknown:
    """What a tokenizer does not know of one document."""

    num_tokens: int = 0
    """Unknown tokens; none of a tokenizer that drops such text."""
    parts: tuple[str, ...] = ()
    """The text that they stand for."""


NOTHING = Unknown()


def find_unknown(tokenizer: Tokenizer, text: str, ids: ArrayLike) -> Unknown:
    """What a tokenizer does not know of a text.

    Args:
        tokenizer: What encoded it.
        text: Of a document; looked at only where its ids hold the unknown token, or where the
            tokenizer may drop some of it.
        ids: `[n]` of it.
    """
    unknown = tokenizer.unknown_id
    num_tokens = 0 if unknown is None else int(np.count_nonzero(np.asarray(ids) == unknown))
    if not num_tokens and not tokenizer.can_drop:
        return NOTHING
    return Unknown(num_tokens, tuple(tokenizer.unknown_parts(text)))


def unknown_share(counts: Counts) -> float:
    """Characters that the tokenizer does not know, of all characters."""
    return counts.unknown_characters / max(counts.characters, 1)


def describe_unknown(counts: Counts) -> str:
    """How much is unknown."""
    return f"{counts.unknown_tokens:,} tokens, {unknown_share(counts):.2%} of the text"


def check_unknown(counts: Counts, tokenizer: str, allowed: float, remedy: str) -> str | None:
    """Make sure that a tokenizer knows the text that it encodes.

    Args:
        counts: Of what it encoded so far.
        tokenizer: Its name.
        allowed: Share of the characters that it need not know.
        remedy: How to allow more.

    Returns:
        A warning where the share is worth one.

    Raises:
        ValueError: It is above what is allowed.
    """
    share = unknown_share(counts)
    if share <= min(WARNED_SHARE, allowed):
        return None
    examples = "; ".join(counts.unknown_examples[:NUM_SHOWN])
    said = f"tokenizer {tokenizer} does not know all of the text: {describe_unknown(counts)} "
    said += f"({examples})"
    if share > allowed:
        raise ValueError(
            f"{said}, and {allowed:.2%} of it may be unknown; choose a tokenizer that has the "
            f"characters of the text or falls back to bytes, or {remedy}"
        )
    return f"{said}; a model learns nothing of that"

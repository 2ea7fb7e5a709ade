"""What a sample of tokens holds.

Shapes: S `seq_len`, k pieces of documents in the sample.

| column | type | |
|---|---|---|
| `tokens` | [S + 1] uint16 or uint32 | the last is only predicted |
| `documents` | [k] int32 | lengths of the pieces, in order; tokens beyond their sum are padding |
| `weights` | [S + 1] float16 | factors of the losses of predicting them; absent if all are 1 |
"""

from collections.abc import Sequence
from typing import Any

from taidscale.data.names import check_shard_name

TOKENS = "tokens"
DOCUMENTS = "documents"
WEIGHTS = "weights"


def columns(seq_len: int, vocab_size: int, *, has_weights: bool) -> dict[str, str]:
    """Streaming's encoding of each column, for ids below `vocab_size`."""
    dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
    found = {TOKENS: f"ndarray:{dtype}:{seq_len + 1}", DOCUMENTS: "ndarray:int32"}
    return found | ({WEIGHTS: f"ndarray:float16:{seq_len + 1}"} if has_weights else {})


def check_columns(shards: Sequence[Any], seq_len: int) -> None:
    """Make sure that shards hold samples of S + 1 tokens.

    Raises:
        ValueError: They hold something else, or lie elsewhere.
    """
    fitting = [
        columns(seq_len, vocab_size, has_weights=has_weights)
        for vocab_size in (1 << 16, 1 << 32)
        for has_weights in (False, True)
    ]
    for shard in shards:
        check_shard_name(shard.raw_data.basename, f"the index of {shard.dirname}")
        found = dict(zip(shard.column_names, shard.column_encodings, strict=True))
        if found not in fitting:
            raise ValueError(
                f"the shards of {shard.dirname} have columns {found}, not those of sequences of "
                f"seq_len {seq_len}; prepare the data with this seq_len"
            )

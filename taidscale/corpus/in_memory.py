"""How do texts that fit into memory become shards?"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from taidscale.corpus.boundaries import Boundaries
from taidscale.corpus.parts import (
    SHARD_BYTES,
    Layout,
    Part,
    free_folder,
    write_manifest,
    write_samples,
)
from taidscale.data.counts import Counts
from taidscale.data.manifest import Manifest, Packing
from taidscale.data.tokenizer import Tokenizer, fingerprint
from taidscale.data.unknown import ALLOWED_SHARE, check_unknown, find_unknown
from taidscale.durable import folder_written_aside


def write_shards(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    seq_len: int,
    out: str | Path,
    *,
    separator_id: int | None = None,
    packing: Packing = "concatenate",
    size_limit: int = SHARD_BYTES,
    allow_unknown: float = ALLOWED_SHARE,
) -> Manifest:
    """Write what fits into memory; `prepare.prepare` is for more.

    Args:
        documents: Texts.
        tokenizer: Makes their tokens.
        seq_len: Tokens that a sample predicts.
        out: Folder to write, which appears when it is complete; absent or empty.
        separator_id: Put after each document; by default what ends a text.
        packing: How documents share samples.
        size_limit: Bytes of a shard at most.
        allow_unknown: Share of the characters that the tokenizer need not know.

    Raises:
        ValueError: `out` is taken, there is no separator, the tokenizer does not know the texts,
            or they do not fill a sample.
    """
    folder = free_folder(out)
    boundaries = Boundaries(tokenizer, separator_id)
    layout = Layout(
        seq_len, packing, boundaries.separator_id, None, tokenizer.size, has_weights=False
    )
    texts = list(documents)
    encoded = tokenizer.encode_batch(texts)
    ids = [np.array(x, np.uint32) for x in encoded if len(x)]
    counts = Counts(documents=len(ids), characters=sum(map(len, texts)), tokens=sum(map(len, ids)))
    for number, (text, entries) in enumerate(zip(texts, encoded, strict=True), 1):
        unknown = find_unknown(tokenizer, text, entries)
        counts.add_unknown(unknown.num_tokens, unknown.parts, f"text {number}")
    check_unknown(counts, tokenizer.name, allow_unknown, "set allow_unknown")
    row = layout.row(ids, [])
    samples, rest = layout.pack(row)
    with folder_written_aside(folder) as partial:
        shards = write_samples(partial / "00000", samples, layout, size_limit)
        part = Part.of(row, samples, layout, counts, shards)
        return write_manifest(
            partial,
            [part],
            layout=layout,
            tokenizer=tokenizer.name,
            fingerprint=fingerprint(tokenizer.vocabulary()),
            num_dropped_tokens=len(rest.tokens),
            remarks=boundaries.remarks,
        )

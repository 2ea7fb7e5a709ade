"""How do texts that fit into memory become shards?"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from taidscale.data.corpus.parts import (
    SHARD_BYTES,
    Layout,
    Part,
    choose_separator,
    free_folder,
    write_manifest,
    write_samples,
)
from taidscale.data.counts import Counts
from taidscale.data.manifest import Manifest, Packing
from taidscale.data.tokenizer import Tokenizer, fingerprint


def write_shards(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    seq_len: int,
    out: str | Path,
    *,
    separator_id: int | None = None,
    packing: Packing = "concatenate",
    size_limit: int = SHARD_BYTES,
) -> Manifest:
    """Write what fits into memory; `prepare.prepare` is for more.

    Args:
        documents: Texts.
        tokenizer: Makes their tokens.
        seq_len: Tokens that a sample predicts.
        out: Folder to write, which appears when it is complete; absent or empty.
        separator_id: Put after each document; by default the tokenizer's own.
        packing: How documents share samples.
        size_limit: Bytes of a shard at most.

    Raises:
        ValueError: `out` is taken, there is no separator, or the documents do not fill a sample.
    """
    folder = free_folder(out)
    separator = choose_separator(tokenizer, separator_id)
    layout = Layout(seq_len, packing, separator, None, tokenizer.size, has_weights=False)
    texts = list(documents)
    ids = [np.array(x, np.uint32) for x in tokenizer.encode_batch(texts) if len(x)]
    row = layout.row(ids, [])
    samples, rest = layout.pack(row)
    counts = Counts(documents=len(ids), characters=sum(map(len, texts)), tokens=sum(map(len, ids)))
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shards = write_samples(partial / "00000", samples, layout, size_limit)
        part = Part.of(row, samples, layout, counts, shards)
        manifest = write_manifest(
            partial,
            [part],
            layout=layout,
            tokenizer=tokenizer.name,
            fingerprint=fingerprint(tokenizer.vocabulary()),
            num_dropped_tokens=len(rest.tokens),
        )
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest

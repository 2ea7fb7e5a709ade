"""Real corpora to shards and back, letter by letter."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from streaming import LocalDataset

from taidscale.corpus.documents import Reading
from taidscale.corpus.encoding import EncodingSettings
from taidscale.corpus.prepare import prepare
from taidscale.data.tokenizer import load_tokenizer

SEQ_LEN = 1024


def texts_of(path: Path) -> Iterator[str]:
    """The documents of a corpus, read without the code under test."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if ".jsonl" in path.name:
        yield from (json.loads(line)["text"] for line in content.decode().splitlines())
    else:
        yield content.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("tokenizer", ["qwen2.5", "llm-jp-v2.2-50k"])
def test_every_document_comes_back(material: Path, tmp_path: Path, tokenizer: str) -> None:
    corpora = material / "corpora"
    sources = [corpora / "ja/aozora.jsonl.gz", *sorted((corpora / "en").glob("wikitext2-*.txt"))]
    sources += [corpora / "en/c4_demo.jsonl", *sorted((corpora / "en/gutenberg").glob("*.txt"))]
    name = str(material / "tokenizers" / tokenizer)
    loaded = load_tokenizer(name)
    num_documents = 0
    for number, source in enumerate(sources):  # one part each, so that order is kept
        out, expected = tmp_path / str(number), list(texts_of(source))
        reading, encoding = Reading(block_bytes=1 << 30), EncodingSettings(tokenizer=name)
        manifest = prepare([str(source)], out, reading, encoding, seq_len=SEQ_LEN)
        samples = LocalDataset(str(out))
        rows = [samples[k]["tokens"] for k in range(samples.size)]
        row = np.concatenate([*(tokens[:-1] for tokens in rows), rows[-1][-1:]])
        assert len(row) == manifest.num_tokens - manifest.num_dropped_tokens
        assert manifest.num_dropped_tokens < SEQ_LEN
        ends = np.flatnonzero(row == manifest.separator_id)
        *whole, rest = np.split(row, ends + 1)
        found = [loaded.decode(ids[:-1].tolist()) for ids in whole]
        assert found == expected[: len(found)]
        # The last ones lack what fills no sample.
        if len(rest):
            cut = loaded.decode(rest.tolist()).rstrip("�")
            assert expected[len(found)].startswith(cut)
        assert manifest.num_documents == len(expected)
        num_documents += len(expected)
    assert num_documents == 437 + 2 + 300 + 4

"""What samples hold, as numbers, text and a drawing; and what cannot be."""

import numpy as np
import pytest

from taidscale.corpus.in_memory import write_shards
from taidscale.data.contents import (
    Span,
    decode_pieces,
    evenly_spaced,
    length_histogram,
    mark_spans,
    read_contents,
)
from taidscale.data.draw_lengths import Panel, draw_lengths
from taidscale.data.manifest import read_manifest
from taidscale.data.tokenizer import load_tokenizer
from tests.data.conftest import write_samples

TEXTS = ["one", "three", "x" * 12, "four five"]


@pytest.fixture
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(str(tiny_tokenizer_folder))


@pytest.fixture
def manifest(tokenizer, tmp_path):
    write_shards(TEXTS, tokenizer, 7, tmp_path / "good")
    return read_manifest(tmp_path / "good")


def test_evenly_spaced():
    assert evenly_spaced(3, 5) == [0, 1, 2]
    assert evenly_spaced(10, 2) == [2, 7]
    assert evenly_spaced(10**9, 1) == [5 * 10**8]
    assert evenly_spaced(5, 0) == []


def test_lengths(manifest, tmp_path):
    seen = []
    contents = read_contents(tmp_path / "good", manifest, 100, seen.append)
    # 4 + 6 + 13 + 10 tokens; each sample begins with the last token of the one before.
    assert contents.lengths.tolist() == [4, 4, 3, 5, 8, 2, 6]
    assert (contents.num_read, sum(seen), contents.problems) == (4, 4, [])
    assert contents.largest_id == 256
    contents = read_contents(tmp_path / "good", manifest, 1)
    assert (contents.num_read, contents.lengths.tolist()) == (1, [8])


def test_histogram():
    lengths = np.array([1, 2, 3, 4, 10], np.int64)
    assert length_histogram(lengths) == [
        ("1", 20.0, 5.0), ("2–3", 40.0, 25.0), ("4–7", 20.0, 20.0), ("8–10", 20.0, 50.0)
    ]  # fmt: skip
    *_, before, last = length_histogram(lengths, longest=16)
    assert (before[0], last) == ("8–15", ("16", 0.0, 0.0))


def test_pieces(tokenizer):
    def ids(text):
        return tokenizer.encode_batch([text])[0]

    sample = {
        "tokens": np.array([*ids("a\nb\x1b["), 256, *ids("你ok"), 300, 301, 256, 256, 256]),
        "documents": np.array([6, 8]),
        "weights": np.array([0] * 2 + [1] * 4 + [1] * 8 + [0] * 2, np.float16),
    }
    (first, spans), (second, others) = decode_pieces(sample, tokenizer)
    assert (first, second) == (6, 8)
    assert spans == [Span("a\n", False), Span("b\\x1b[<|end|>", True)]
    assert others == [
        Span("你ok", True), Span("<id 300?><id 301?>", True), Span("<|end|>", True)
    ]  # fmt: skip
    assert mark_spans(spans, 99, ("[[", "]]")) == "[[a\n]]b\\x1b[<|end|>"
    del sample["weights"]
    assert all(span.counts for _, spans in decode_pieces(sample, tokenizer) for span in spans)


def test_long_pieces_are_shortened():
    spans = [Span("a" * 50, False), Span("b" * 10, True), Span("c" * 40, True)]
    shown = mark_spans(spans, 40, ("[", "]"))
    assert shown == "[" + "a" * 30 + " <... 60 characters ...> ]" + "c" * 10
    shown = mark_spans(spans, 80, ("[", "]"))
    assert shown == "[" + "a" * 50 + "]" + "b" * 10 + " <... 20 characters ...> " + "c" * 20
    assert mark_spans(spans, 100, ("[", "]")) == f"[{'a' * 50}]{'b' * 10}{'c' * 40}"


@pytest.mark.parametrize(
    ("tokens", "documents", "weights", "says"),
    [
        ([5] * 7 + [257], [8], None, "sample 1 holds id 257, beyond the tokenizer's 257"),
        ([5] * 8, [4, 5], None, r"sample 1 has impossible lengths of documents \(\[4, 5\] in 8"),
        ([5] * 8, [8, 0], None, "impossible lengths"),
        ([5] * 8, [7], None, "sample 1 has padding that is not the separator 256"),
        ([5] * 7 + [256], [7], [1] * 8, "sample 1 has padding with a weight other than 0"),
        ([5] * 7 + [256], [7], [1, -1] * 3 + [1, 0], "sample 1 has weights that are negative or"),
    ],
)
def test_problems(manifest, tmp_path, tokens, documents, weights, says):
    good = [5] * 8
    folder = write_samples(
        tmp_path / "bad",
        [good, tokens, tokens],
        [[8], documents, documents],
        weights and [[1] * 8, weights, weights],
    )
    manifest = manifest.model_copy(update={"num_samples": 3})
    contents = read_contents(folder, manifest, 10)
    assert len(contents.problems) == 1
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(contents.problems[0])


def test_nothing_makes_sense(manifest, tmp_path):
    folder = write_samples(tmp_path / "bad", [[5] * 8] * 4, [[9]] * 4)
    with pytest.raises(ValueError, match=r"sample 0 has impossible lengths .* as have all others"):
        read_contents(folder, manifest, 10)


def test_damaged_shard(manifest, tmp_path):
    path = tmp_path / "good" / manifest.shards[0].file
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"sample 0 of .*good cannot be read .*--verify"):
        read_contents(tmp_path / "good", manifest, 10)


def test_drawing(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    source = np.random.default_rng(0)
    panels = [
        Panel("a" * 99, "small", source.integers(1, 9, 50)),
        Panel("b", "large", source.integers(1, 3000, 50)),
    ]
    draw_lengths(panels, tmp_path / "lengths.png")
    image = pyplot.imread(tmp_path / "lengths.png")
    assert image.shape[1] == 1200
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["lengths.png"]

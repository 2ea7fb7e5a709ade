"""Which tokens stand together in a sample."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taidscale.corpus.packing import Row, best_fit, concatenate, lay_out

SEPARATOR, BOS = 60_000, 60_001
sizes = st.lists(st.integers(1, 40), max_size=30)
seq_lens = st.integers(1, 12)


def numbered(lengths, weighted=False):
    """Documents whose tokens are all different, and whose weights tell the token."""
    ids = np.split(np.arange(sum(lengths), dtype=np.uint32), np.cumsum(lengths))[: len(lengths)]
    weights = [(x + 1).astype(np.float16) for x in ids] if weighted else None
    return ids, weights


def row_of(lengths, **settings):
    ids, weights = numbered(lengths, settings.pop("weighted", False))
    settings = {"separator_id": SEPARATOR, "bos_id": None, "dtype": np.uint16} | settings
    return lay_out(ids, weights, **settings)


def distinct_row(lengths, weighted=False):
    """A row of documents of these lengths, separators included, all of whose tokens differ."""
    tokens = np.arange(sum(lengths), dtype=np.uint16)
    weights = (tokens + 1).astype(np.float16) if weighted else None
    return Row(tokens, np.array(lengths, np.int64), weights)


def pieces_of(samples):
    """Tokens of every piece, sample by sample, and the padding."""
    for tokens, lengths, _ in samples:
        ends = np.cumsum(lengths)
        assert lengths.dtype == np.int32
        assert lengths.min() >= 1
        *pieces, padding = np.split(tokens, ends)
        yield [piece.tolist() for piece in pieces], padding.tolist()


# --- rows -----------------------------------------------------------------------------


def test_row():
    row = row_of([2, 0, 1])
    assert row.tokens.tolist() == [0, 1, SEPARATOR, SEPARATOR, 2, SEPARATOR]
    assert row.tokens.dtype == np.uint16
    assert row.lengths.tolist() == [3, 1, 2]
    assert row.weights is None


def test_row_with_beginnings_and_weights():
    ids = [np.array([5, 6], np.uint32), np.array([7], np.uint32)]
    weights = [np.array([0, 0.5], np.float16), None]
    row = lay_out(ids, weights, separator_id=1, bos_id=0, dtype=np.uint32)
    assert row.tokens.tolist() == [0, 5, 6, 1, 0, 7, 1]
    assert row.lengths.tolist() == [4, 3]
    # The separator after a weighted document counts no more than its beginning.
    assert row.weights.tolist() == [0, 0, 0.5, 0, 1, 1, 1]


def test_empty_row():
    row = row_of([])
    samples, rest = concatenate(row, 3)
    assert (len(row.tokens), len(samples), len(rest.tokens)) == (0, 0, 0)
    assert len(best_fit(row, 3, SEPARATOR)) == 0


@given(sizes, st.data(), st.booleans())
def test_rows_cut_and_joined(lengths, data, weighted):
    whole = row_of(lengths, weighted=weighted)
    first = data.draw(st.integers(0, len(whole.tokens)))
    rest = whole.from_token(first)
    assert rest.tokens.tolist() == whole.tokens[first:].tolist()
    assert rest.lengths.sum() == len(rest.tokens)
    assert (rest.lengths >= 1).all()
    assert np.isin(
        len(whole.tokens) - np.cumsum(whole.lengths)[::-1],
        len(rest.tokens) - np.cumsum(rest.lengths)[::-1],
    ).sum() == len(rest.lengths)
    both = Row.join([whole, rest])
    assert both.tokens.tolist() == [*whole.tokens, *rest.tokens]
    assert both.lengths.tolist() == [*whole.lengths, *rest.lengths]
    if weighted:
        assert both.weights.tolist() == [*whole.weights, *rest.weights]
    else:
        assert both.weights is None


# --- concatenate ----------------------------------------------------------------------


@given(sizes, seq_lens, st.booleans())
def test_concatenate(lengths, seq_len, weighted):
    row = row_of(lengths, weighted=weighted)
    samples, rest = concatenate(row, seq_len)
    assert len(samples) == max(len(row.tokens) - 1, 0) // seq_len
    # Every token but the first is predicted once, in order, and what is left is less than one.
    predicted = [token for tokens in samples.tokens for token in tokens[1:]]
    context = [token for tokens in samples.tokens for token in tokens[:-1]]
    assert [*context, *rest.tokens[:-1]] == row.tokens[:-1].tolist()
    assert [*predicted, *rest.tokens[1:]] == row.tokens[1:].tolist()
    assert len(rest.tokens) <= seq_len
    starts = set(np.cumsum(row.lengths).tolist())
    for number, (tokens, documents, weights) in enumerate(samples):
        place = number * seq_len
        ends = place + np.cumsum(documents)
        assert ends[-1] == place + seq_len + 1
        # A piece ends where a document ends, and nowhere else but at the end of the sample.
        assert {end for end in range(place + 1, int(ends[-1])) if end in starts} == set(
            ends[:-1].tolist()
        )
        if weighted:
            assert weights.tolist() == row.weights[place : place + seq_len + 1].tolist()
        else:
            assert weights is None
        assert tokens.dtype == np.uint16


# --- best fit -------------------------------------------------------------------------


@given(sizes, seq_lens, st.booleans())
def test_best_fit(lengths, seq_len, weighted):
    row = distinct_row(lengths, weighted)
    samples = best_fit(row, seq_len, SEPARATOR)
    size = seq_len + 1
    assert samples.tokens.shape == (len(samples), size)
    found = list(pieces_of(samples))
    assert all(token == SEPARATOR for _, padding in found for token in padding)
    pieces = [piece for pieces, _ in found for piece in pieces]
    expected = []
    for length, end in zip(lengths, np.cumsum(lengths), strict=True):
        document = list(range(end - length, end))
        expected += [document[k : k + size] for k in range(0, max(length - 1, 1), seq_len)]
    assert sorted(pieces) == expected
    # All but the first token of each document is predicted once.
    predicted = Counter(token for piece in pieces for token in piece[1:])
    starts = {int(end - n) for n, end in zip(lengths, np.cumsum(lengths), strict=True)}
    assert predicted == Counter(set(range(sum(lengths))) - starts)
    for tokens, documents, weights in samples:
        if weighted:
            used = documents.sum()
            assert weights[:used].tolist() == (tokens[:used] + 1).astype(np.float16).tolist()
            assert not weights[used:].any()
        else:
            assert weights is None


@given(sizes, seq_lens)
def test_best_fit_wastes_little(lengths, seq_len):
    samples = best_fit(distinct_row(lengths), seq_len, SEPARATOR)
    used = [int(documents.sum()) for _, documents, _ in samples]
    size = seq_len + 1
    # No two samples could be one, so that they are more than half full.
    assert all(a + b > size for i, a in enumerate(used) for b in used[:i])
    # In the order of the input: by the first piece of each sample, and within each sample.
    firsts = [sample[0][0] for sample, _ in pieces_of(samples)]
    assert firsts == sorted(firsts)
    for sample, _ in pieces_of(samples):
        assert sample == sorted(sample)


def test_best_fit_chooses_the_fullest_sample():
    samples = best_fit(distinct_row([4, 7, 3, 5]), 9, SEPARATOR)
    assert [documents.tolist() for _, documents, _ in samples] == [[4, 5], [7, 3]]


@pytest.mark.parametrize(
    ("length", "pieces"), [(5, [5]), (6, [5, 2]), (9, [5, 5]), (10, [5, 5, 2])]
)
def test_long_documents_share_a_token_where_they_are_cut(length, pieces):
    samples = best_fit(distinct_row([length]), 4, SEPARATOR)
    assert samples.lengths.tolist() == pieces
    assert [tokens[0] for tokens, _, _ in samples] == [4 * k for k in range(len(pieces))]

"""Likeness of responses, in languages with and without spaces."""

import pytest

from taidscale.assessment.similarity import RougeL, Units, ngram_overlap


def test_units() -> None:
    assert Units().tokenize("It's 3.5, 東京タワー! Größe") == [
        "it", "s", "3", "5", "東", "京", "タ", "ワ", "ー", "größe",
    ]  # fmt: skip


def test_rouge_l() -> None:
    pytest.importorskip("rouge_score")
    rouge = RougeL()
    # The longest common subsequence has 4 of 6 and of 5 units.
    assert rouge("the cat sat on the mat", "the cat on a mat") == pytest.approx(2 * 4 / (6 + 5))
    assert rouge("私は猫です", "私は犬です") == pytest.approx(2 * 4 / (5 + 5))
    assert rouge("今日は雨", "") == 0.0
    assert rouge("...", "") == 1.0


def test_ngram_overlap() -> None:
    assert ngram_overlap("a b c d e", "x a b c y") == pytest.approx(2 * 1 / (3 + 3))
    assert ngram_overlap("a b c a b c", "a b c", n=3) == pytest.approx(2 * 1 / (4 + 1))
    assert ngram_overlap("猫が好き", "猫が好きだ") == pytest.approx(2 * 2 / (2 + 3))
    assert ngram_overlap("a", "A") == 1.0
    assert ngram_overlap("a", "b") == 0.0

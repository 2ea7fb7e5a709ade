"""Tokenizers with the same entries that give texts other ids are found."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from taidscale.data.same_ids import TEXTS, compare_ids
from taidscale.data.tokenizer import load_tokenizer

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
PIECES = ["ab", "bc", "abc", "th", "the", "de"]
MERGES = [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc"), ("t", "h"), ("th", "e"), ("d", "e")]

BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
AT_H = pre_tokenizers.Split("h", "isolated")


def save(folder: Path, model: Any, **parts: Any) -> Any:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = BYTE_LEVEL
    tokenizer.decoder = decoders.ByteLevel()
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    return load_tokenizer(str(folder))


def bpe(folder: Path, merges: list[tuple[str, str]], **parts: Any) -> Any:
    vocabulary = {piece: index for index, piece in enumerate([*BYTES, *PIECES])}
    return save(folder, models.BPE(vocab=vocabulary, merges=merges), **parts)


def unigram(folder: Path, scores: dict[str, float], unknown: float = 0.0) -> Any:
    pieces = [("<unk>", unknown), *((symbol, -9.0) for symbol in BYTES), *scores.items()]
    return save(folder, models.Unigram(pieces, unk_id=0))


def compare(teacher: Any, student: Any) -> list[str]:
    """As the entries are equal."""
    assert teacher.vocabulary() == student.vocabulary()
    return compare_ids(teacher, student, student.size)


def test_the_same_twice(tmp_path: Path) -> None:
    assert compare(bpe(tmp_path / "a", MERGES), bpe(tmp_path / "b", MERGES)) == []
    scores = {"th": -2.0, "the": -1.5}
    assert compare(unigram(tmp_path / "c", scores), unigram(tmp_path / "d", scores)) == []


def test_merges_in_another_order(tmp_path: Path) -> None:
    """ "abc" is the one "ab c" and to the other "a bc"; none of `TEXTS` shows it."""
    other = [MERGES[1], MERGES[0], *MERGES[4:]]
    first, second = bpe(tmp_path / "a", [*MERGES[:2], *MERGES[4:]]), bpe(tmp_path / "b", other)
    assert first.encode_batch(["abc"]) != second.encode_batch(["abc"])
    assert first.encode_batch([*TEXTS]) == second.encode_batch([*TEXTS])
    with pytest.raises(ValueError, match=r"merge 1 is 'a' \+ 'b' there, 'b' \+ 'c' here") as said:
        compare(first, second)
    assert "student.tokenizer" in str(said.value)


def test_merges_that_one_lacks(tmp_path: Path) -> None:
    first, second = bpe(tmp_path / "a", MERGES), bpe(tmp_path / "b", MERGES[:-1])
    with pytest.raises(ValueError, match=r"merge 7 is 'd' \+ 'e' there, absent here"):
        compare(first, second)
    with pytest.raises(ValueError, match=r"merge 7 is absent there, 'd' \+ 'e' here"):
        compare(second, first)


def test_ways_to_one_piece_in_another_order(tmp_path: Path) -> None:
    other = [*MERGES[:2], MERGES[3], MERGES[2], *MERGES[4:]]
    assert compare(bpe(tmp_path / "a", MERGES), bpe(tmp_path / "b", other)) == []


def test_scores(tmp_path: Path) -> None:
    first = unigram(tmp_path / "a", {"th": -2.0, "the": -1.5})
    second = unigram(tmp_path / "b", {"th": -2.0, "the": -30.0})
    with pytest.raises(ValueError, match=r"score of id 258 is -1\.5 there, -30 here"):
        compare(first, second)
    # That of an added or control token chooses nothing; "<unk>" is one here.
    same = unigram(tmp_path / "c", {"th": -2.0, "the": -1.5}, unknown=-3.0)
    same.hf.add_special_tokens({"unk_token": "<unk>"})
    assert compare(first, same) == []


def test_scores_of_sentencepiece(real_material: Path) -> None:
    folder = real_material / "tokenizers" / "sentencepiece"
    first, second = (load_tokenizer(str(file)) for file in sorted(folder.glob("*.model")))
    assert compare_ids(first, first, first.size) == []
    with pytest.raises(ValueError, match="the score of id"):
        compare_ids(first, second, second.size)


@pytest.mark.parametrize(
    ("parts", "place"),
    [
        ({"normalizer": normalizers.NFC()}, r"token 3 of 'cafe"),
        ({"normalizer": normalizers.NFKC()}, r"token \d+ of .*…"),
        ({"normalizer": normalizers.Lowercase()}, r"token 0 of \"The quick"),
        (
            {"pre_tokenizer": pre_tokenizers.Sequence([AT_H, BYTE_LEVEL])},
            r"token \d+ of \"The quick",
        ),
    ],
)
def test_another_normalizer_or_pre_tokenizer(tmp_path: Path, parts: Any, place: str) -> None:
    first, second = bpe(tmp_path / "a", MERGES), bpe(tmp_path / "b", MERGES, **parts)
    with pytest.raises(ValueError, match=rf"{place}.* is id \d+ there, id \d+ here"):
        compare(first, second)


def test_what_is_written_differently_and_does_the_same(tmp_path: Path) -> None:
    same = normalizers.Sequence([normalizers.Replace("\ufffe", "")])
    first, second = bpe(tmp_path / "a", MERGES), bpe(tmp_path / "b", MERGES, normalizer=same)
    assert compare(first, second) == ["normalizer"]


def test_two_forms_of_one_sentencepiece_model(tmp_path: Path) -> None:
    """Llama's older tokenizer.json and the one of newer converters."""
    symbols = sorted({c for text in TEXTS for c in text.replace(" ", "▁")} | {"▁"})
    vocabulary = {piece: index for index, piece in enumerate(["<unk>", *symbols, "▁t", "he"])}
    model = {"vocab": vocabulary, "merges": [("▁", "t"), ("h", "e")], "unk_token": "<unk>"}
    older = save(
        tmp_path / "older",
        models.BPE(**model, fuse_unk=True),
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        pre_tokenizer=None,
    )
    newer = save(
        tmp_path / "newer",
        models.BPE(**model, fuse_unk=True),
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
    )
    assert json.loads((tmp_path / "older" / "tokenizer.json").read_text())["pre_tokenizer"] is None
    assert compare(older, newer) == ["normalizer", "pre_tokenizer"]
    assert older.encode_batch([" he"]) != newer.encode_batch([" he"])

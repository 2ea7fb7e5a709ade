"""Files under the names that public corpora have, and columns inside of columns."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from taidscale.corpus.documents import Reading, Sources
from tests.corpus.files import skipping, texts_of

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
MARK = b"\xef\xbb\xbf"


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize(
    "name", ["c4-train.00000-of-01024.json", "a.ndjson", "A.JSONL", "b.Json", "part.jsonl"]
)
@pytest.mark.parametrize("is_upper", [False, True])
def test_names_of_lines(tmp_path: Path, name: str, packed: str, is_upper: bool) -> None:
    path = tmp_path / (name + (packed.upper() if is_upper else packed))
    path.write_bytes(PACK[packed](lines("one", "two")) + PACK[packed](lines("three")))
    assert texts_of(path) == ["one", "two", "three"]


def test_names_of_texts_and_tables(tmp_path: Path) -> None:
    (tmp_path / "A.TXT.BZ2").write_bytes(bz2.compress(b"text"))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["row"]}), tmp_path / "B.PARQUET")
    assert texts_of(tmp_path / "A.TXT.BZ2", tmp_path / "B.PARQUET") == ["text", "row"]
    (tmp_path / "c.json.zip").touch()
    with pytest.raises(ValueError, match=r"unknown kind of file '\.json\.zip'; use \.txt, \.jsonl"):
        Sources([str(tmp_path / "c.json.zip")])


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize(
    "content",
    [
        b'[{"text": "one"}, {"text": "two"}]',
        b'[\n{"text": "one"},\n{"text": "two"}\n]\n',
        b'  [ {"text": "one"},\n {"text": "two"}]',
        b'\xef\xbb\xbf[{"text": "one"}]\n',
        b'{\n  "text": "one"\n}\n',
    ],
)
def test_one_json_value(tmp_path: Path, content: bytes, packed: str) -> None:
    path = tmp_path / f"a.json{packed}"
    path.write_bytes(PACK[packed](content))
    with pytest.raises(ValueError, match=r"holds one JSON value, .* to a line, .* jq -c"):
        Sources([str(path)])


@pytest.mark.parametrize("content", [b'{"text": "one"}', b'\n{"text": "one"}\n{broken', b"", b"5"])
def test_json_of_lines(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    texts, counts = skipping(tmp_path / "a.json")
    assert texts == ["one"] * (b"one" in content)
    assert sum(counts.skipped.values()) == (b"broken" in content) + (content == b"5")


@pytest.mark.parametrize("packed", [name for name in PACK if name])
def test_damaged_archives(tmp_path: Path, packed: str) -> None:
    whole = PACK[packed](lines(*"abc"))
    for content in (whole + b"garbage", whole[:-5]):
        (tmp_path / f"a.jsonl{packed}").write_bytes(content)
        texts, counts = skipping(tmp_path / f"a.jsonl{packed}")
        assert texts == [*"abc"][: len(texts)]
        assert counts.skipped == {"damaged file": 1}


@pytest.mark.parametrize("packed", PACK)
def test_byte_order_marks_of_joined_files(tmp_path: Path, packed: str) -> None:
    members = [MARK + lines("one"), MARK + lines("two"), lines("three"), MARK, MARK + lines("")]
    path = tmp_path / f"a.jsonl{packed}"
    path.write_bytes(b"".join(map(PACK[packed], members)))
    assert texts_of(path) == ["one", "two", "three"]
    path = tmp_path / f"a.txt{packed}"
    path.write_bytes(b"".join(PACK[packed](MARK + text) for text in (b"one\n\n", b"two\n\n")))
    assert texts_of(path, split_on="\n\n") == ["one", "two"]
    if packed:
        assert texts_of(path) == ["one\n\ntwo\n\n"]


# --- columns --------------------------------------------------------------------------

ROWS = [
    {"a": {"b": {"text": "nested"}, "b.text": "half"}, "a.b.text": "literal", "x": 1},
    {"a": {"b": {"text": "nested"}, "b.text": "half"}, "x": 2},
    {"a": {"b": {"text": "nested"}}, "x": 3},
    {"a": None, "x": 4},
]


def test_nested_columns_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert texts_of(path, text_column="a.b.text") == ["literal", "half", "nested"]
    with pytest.raises(ValueError, match=r"line 1: no column 'a\.c'; choose the column among a, "):
        texts_of(path, text_column="a.c")


def save_rows(folder: Path, rows: list[dict[str, object]]) -> list[str]:
    """As Parquet, and as a dataset."""
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    return [str(folder / "a.parquet"), str(folder / "saved")]


def test_nested_columns_of_tables(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"a": {"b": {"text": text}}} for text in ("one", None, "two")]
    rows.append({"a": None})
    for source in save_rows(tmp_path, rows):
        assert texts_of(source, text_column="a.b.text") == ["one", "two"]
        for missing in ("a.b.c", "a.x", "text", "a.b.text.more"):
            with pytest.raises(ValueError, match="no column"):
                texts_of(source, text_column=missing)


def test_a_column_of_that_very_name_comes_first(tmp_path: Path) -> None:
    for source in save_rows(tmp_path, [{"a": {"text": "nested"}, "a.text": "literal"}]):
        assert texts_of(source, text_column="a.text") == ["literal"]


def test_nested_chats(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    for source in save_rows(tmp_path, [{"data": {"messages": chat}}]):
        (block,) = Sources([source], Reading(chat_column="data.messages"))
        assert [document.messages for document in block.documents()] == [chat]

"""What is said of records and files that cannot be read, and what is read in spite of them."""

import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from taidscale.corpus.documents import Reading, Sources
from taidscale.data.counts import MAX_PLACES, Counts
from tests.corpus.files import skipping, texts_of, write


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\nbad \xff\n", r"a\.txt, line 2: not UTF-8 .* byte 4"),
        ("a.txt.gz", b"not gzip", r"a\.txt\.gz, line 1: broken compressed data"),
        (
            "a.txt.gz",
            gzip.compress(b"text\n" * 99, mtime=0)[:-9],
            r"line 1: the compressed data break off",
        ),
        ("a.txt.zst", b"not zstd", r"a\.txt\.zst, line 1: broken compressed data"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl, line 2: broken JSON"),
        ("a.jsonl", b'{"text": %s}' % (b"9" * 5000), "line 1: JSON that cannot be read"),
        ("a.jsonl", b"[" * 100_000, "line 1: JSON that cannot be read"),
        ("a.jsonl", b'{"text": "\xff"}', "line 1: not UTF-8"),
        ("a.jsonl", b'{"text": "\\ud83d"}', r"line 1: \\ud83d is half a character"),
        ("a.jsonl", b"[1]\n", r"line 1: a list instead of a JSON object"),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: column 'text' holds a int"),
        ("a.jsonl", b'{"body": "x", "id": 1}\n', r"line 1: no column 'text'.* among body, id"),
        ("a.parquet", b"not parquet", r"a\.parquet, row 1: cannot be read"),
    ],
)
def test_unreadable(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        texts_of(tmp_path / name)
    texts, counts = skipping(tmp_path / name)
    assert len(texts) == content.count(b'"text": "x"')
    assert sum(counts.skipped.values()) == len(counts.places) == 1


def test_the_first_places_are_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n{"text": 3}\n{\n' * 30)
    texts, counts = skipping(path)
    assert texts == ["good"] * 30
    assert counts.skipped == {"wrong type": 30, "broken JSON": 30}
    assert len(counts.places) == MAX_PLACES
    assert counts.places[1].startswith(f"{path}, line 3: broken JSON")
    double = counts + counts
    assert double.skipped == {"wrong type": 60, "broken JSON": 60}
    assert double.places == counts.places
    assert Counts.model_validate_json(double.model_dump_json()) == double


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_documents_before_damage_are_used(tmp_path, packed):
    texts = [f"{k * 7919 % 1000} {k}" for k in range(5000)]
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    path = tmp_path / f"a.jsonl{packed}"
    compress = gzip.compress if packed == ".gz" else zstandard.ZstdCompressor().compress
    whole = compress(content[: len(content) // 2]) + compress(content[len(content) // 2 :])
    for damaged in (whole[: len(whole) * 2 // 3], whole[:-1], whole + b"garbage"):
        path.write_bytes(damaged)
        for block_bytes in (1000, 1 << 25):
            found, counts = skipping(path, block_bytes=block_bytes)
            assert found == texts[: len(found)]
            assert len(found) > 1000
            assert counts.skipped == {"damaged file": 1}
            assert counts.places[0].startswith(f"{path}, line {len(found) + 1}: ")
        with pytest.raises(ValueError, match=f"line {len(found) + 1}: .* is lost"):
            texts_of(path)
    path.write_bytes(whole)
    assert texts_of(path) == texts


def test_damaged_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"text {k}" for k in range(2000)]
    table = pyarrow.table({"text": texts})
    pyarrow.parquet.write_table(table, path, row_group_size=500, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    third = pyarrow.parquet.ParquetFile(path).metadata.row_group(2).column(0)
    start = third.dictionary_page_offset
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    found, counts = skipping(path)
    assert found == texts[: len(found)]
    assert 768 <= len(found) <= 1000  # all whole batches before it
    assert counts.places[0].startswith(f"{path}, row {len(found) + 1}: cannot be read")
    broken = pyarrow.array([b"good", b"\xff", b"more"]).cast(pyarrow.string(), safe=False)
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), path)
    found, counts = skipping(path)
    assert found == ["good", "more"]
    assert counts.places[0].startswith(f"{path}, row 2: not UTF-8")


def test_bad_utf8_costs_its_document_alone(tmp_path):
    path = write(tmp_path / "a.txt", b"one\n\ntwo\nbad\xff\n\nthree")
    texts, counts = skipping(path, split_on="\n\n")
    assert texts == ["one", "three"]
    assert counts.places[0].startswith(f"{path}, line 4: not UTF-8 (invalid start byte at byte 3")


def test_a_record_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("taidscale.corpus.reading.MAX_RECORD_BYTES", 3 << 20)
    line = b'{"text": "x"}\n'
    path = write(tmp_path / "a.jsonl", line * 10 + b"y" * (5 << 20))
    texts, counts = skipping(path, block_bytes=100)
    assert texts == ["x"] * 10
    assert counts.skipped == {"too long": 1}
    assert "line 11: a record of more than" in counts.places[0]
    with pytest.raises(ValueError, match=r"line 1: a record of more .* \(--split-on\)"):
        texts_of(write(tmp_path / "a.txt", b"y" * (5 << 20)))


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ("text", "column 'chat' holds a str instead of a list of messages"),
        (["text"], "message 1 of the chat is a str"),
        ([{"from": "user", "value": "x"}], "message 1 of the chat has no role but from, value"),
        ([{"role": "user"}], "message 1 of the chat has no content that is a text"),
        ([{"role": "user", "content": ["x"]}], "message 1 of the chat has no content"),
        ([{"role": "user", "content": "\ud83d"}], "is half a character"),
    ],
)
def test_bad_chats(tmp_path, chat, message):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"chat": [], "text": "x"}) + "\n" + json.dumps({"chat": chat}))
    blocks = list(Sources([str(path)], Reading(chat_column="chat")))
    with pytest.raises(ValueError, match=f"line 2: .*{message}"):
        list(blocks[0].documents())


def test_tables_without_the_column(tmp_path):
    table = {"body": ["x"], "id": [1]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    datasets.DatasetDict(train=datasets.Dataset.from_dict(table)).save_to_disk(tmp_path / "b")
    for name in ("a.parquet", "b"):
        with pytest.raises(ValueError, match=r"no column 'text'.* among body, id"):
            texts_of(tmp_path / name)
    with pytest.raises(ValueError, match="row 1: column 'id' holds a int"):
        texts_of(tmp_path / "a.parquet", text_column="id")
    with pytest.raises(ValueError, match="no split 'test'; choose among train"):
        texts_of(tmp_path / "b", split="test")

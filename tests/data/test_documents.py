"""What texts a source holds."""

import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from taidscale.data.documents import Documents


def test_text_files(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with gzip.open(tmp_path / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("三\n")
    (tmp_path / "c.txt").write_text(" \n")
    documents = Documents([str(tmp_path / "*.txt"), str(tmp_path / "*.gz")])
    assert list(documents) == ["one\ntwo\n", "三\n"]
    assert documents.num_empty == 1
    assert list(documents) == ["one\ntwo\n", "三\n"]
    assert documents.num_empty == 1


@pytest.mark.parametrize("separator", ["<|end|>", "\n\n"])
def test_split_text(tmp_path, separator):
    texts = [f"story {k}\nof two lines" for k in range(5000)]
    (tmp_path / "a.txt").write_text(separator.join(texts) + separator + separator + "last")
    documents = Documents([str(tmp_path / "a.txt")], split_on=separator)
    assert list(documents) == [*texts, "last"]
    assert documents.num_empty == 1


def test_rows(tmp_path):
    texts = ["one", "", "two\nlines"]
    lines = "\n".join(json.dumps({"id": 1, "body": text}) for text in texts) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    table = {"id": [1, 2, 3], "body": ["one", None, "two\nlines"]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "c.parquet", row_group_size=2)
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "d")
    datasets.DatasetDict(valid=datasets.Dataset.from_dict(table)).save_to_disk(tmp_path / "e")
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet", "d", "e"):
        for prefix in ("", "datasets:") if name in "de" else ("",):
            documents = Documents([f"{prefix}{tmp_path / name}"], text_column="body", split="valid")
            assert list(documents) == ["one", "two\nlines"], name
            assert documents.num_empty == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\nbad \xff\n", r"a\.txt, line 2: not UTF-8 .* byte 4"),
        ("a.txt.gz", b"not gzip", r"a\.txt\.gz, after line 0: cannot be read"),
        ("a.txt.gz", gzip.compress(b"text\n" * 99)[:-9], r"cannot be read"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl, line 2: broken JSON"),
        ("a.jsonl", b"[1]\n", r"line 1: a list instead of a JSON object"),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: column 'text' holds a int"),
        ("a.jsonl", b'{"body": "x", "id": 1}\n', r"line 1: no column 'text'.* among body, id"),
        ("a.parquet", b"not parquet", r"a\.parquet, after row 0: cannot be read"),
    ],
)
def test_unreadable(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(Documents([str(tmp_path / name)]))


def test_tables_without_the_column(tmp_path):
    table = {"body": ["x"], "id": [1]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    datasets.DatasetDict(train=datasets.Dataset.from_dict(table)).save_to_disk(tmp_path / "b")
    for name in ("a.parquet", "b"):
        with pytest.raises(ValueError, match=r"no column 'text'.* among body, id"):
            list(Documents([str(tmp_path / name)]))
    with pytest.raises(ValueError, match="holds a int"):
        list(Documents([str(tmp_path / "a.parquet")], text_column="id"))
    with pytest.raises(ValueError, match="no split 'test'; choose among train"):
        list(Documents([str(tmp_path / "b")], split="test"))


def test_sources_that_match_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"no file matches .*\*\.txt"):
        Documents([str(tmp_path / "*.txt")])
    with pytest.raises(ValueError, match="is a folder"):
        Documents([str(tmp_path)])
    (tmp_path / "a.pdf").touch()
    with pytest.raises(ValueError, match=r"unknown kind of file '\.pdf'"):
        Documents([str(tmp_path / "a.pdf")])
    with pytest.raises(ValueError, match="split_on is empty"):
        Documents([], split_on="")


def test_real_corpora(material):
    corpora = material / "corpora"
    assert sum(1 for _ in Documents([str(corpora / "en/c4_demo.jsonl")])) == 300
    japanese = next(iter(Documents([str(corpora / "ja/aozora.jsonl.gz")])))
    assert len(japanese) > 100

"""Which documents sources hold, and in which blocks."""

import gzip
import json
import pickle
import tracemalloc
from itertools import product

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from taidscale.corpus.documents import Reading, Sources
from tests.corpus.files import texts_of, write

# --- kinds of sources -----------------------------------------------------------------


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_text_files(tmp_path, packed):
    write(tmp_path / f"b.txt{packed}", "三\nfour\n".encode())
    write(tmp_path / f"a.txt{packed}", b"one\ntwo")
    write(tmp_path / f"c.txt{packed}", b" \n")
    write(tmp_path / f"d.txt{packed}", b"")
    assert texts_of(tmp_path / f"*.txt{packed}") == ["one\ntwo", "三\nfour\n"]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("separator", ["<|end|>", "\n\n", "。"])
def test_split_text(tmp_path, separator, packed):
    texts = [f"物語 {k}\nof two lines" for k in range(3000)]
    content = separator.join(texts) + separator + separator + "last"
    path = write(tmp_path / f"a.txt{packed}", content.encode())
    for block_bytes in (1, 1000, 1 << 25):
        documents = texts_of(path, split_on=separator, block_bytes=block_bytes)
        assert documents == [*texts, "last"]


def test_places_in_split_text(tmp_path):
    path = write(tmp_path / "a.txt", b"one\r\ntwo\r\n\r\nthree\n\n\n\nfour\n\n")
    sources = Sources([str(path)], Reading(split_on="\n\n", block_bytes=5))
    found = [(d.text, d.place) for block in sources for d in block.documents() if d.text]
    assert found == [
        ("one\ntwo", f"{path}, line 1"),
        ("three", f"{path}, line 4"),
        ("four", f"{path}, line 8"),
    ]


def test_rows_of_every_kind(tmp_path):
    texts = ["one", "", "two\nlines", "三\u2028四\x85五"]
    lines = "\n".join(json.dumps({"id": 1, "body": text}, ensure_ascii=False) for text in texts)
    for packed in ("", ".gz", ".zst"):
        write(tmp_path / f"a.jsonl{packed}", lines.encode())
    table = {"id": [1, 2, 3, 4], "body": [texts[0], None, *texts[2:]]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "c.parquet", row_group_size=2)
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "d")
    datasets.DatasetDict(valid=datasets.Dataset.from_dict(table)).save_to_disk(tmp_path / "e")
    (tmp_path / "f").mkdir()
    write(tmp_path / "f" / "valid.jsonl", lines.encode())
    names = ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "c.parquet", "d", "e")
    for source in [
        *(tmp_path / name for name in names),
        *(f"datasets:{tmp_path}/{n}" for n in "df"),
    ]:
        split = "validation" if str(source).endswith("f") else "valid"
        found = texts_of(source, text_column="body", split=split)
        assert found == [texts[0], *texts[2:]], source


def test_chats_of_every_kind(tmp_path):
    chat = [{"role": "user", "content": "やあ"}, {"role": "assistant", "content": "Hi"}]
    calls = [{"role": "assistant", "tool_calls": "f()"}]
    table = {"chat": [chat, calls, None]}
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"chat": row}) + "\n" for row in table["chat"])
    )
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "b.parquet")
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "c")
    for name in ("a.jsonl", "b.parquet", "c"):
        sources = Sources([str(tmp_path / name)], Reading(chat_column="chat"))
        found = [d.messages for block in sources for d in block.documents()]
        assert found == [chat, calls, []], name


def test_tidy_reading_of_lines(tmp_path):
    lines = b'\xef\xbb\xbf{"text": "a"}\r\n\n \r\n{"text": "b\\r\\n"}\n\n{"text": "c"}'
    for name, block_bytes in product(("a.jsonl", "b.jsonl.gz"), (1, 20, 1000)):
        assert texts_of(write(tmp_path / name, lines), block_bytes=block_bytes) == [
            "a",
            "b\r\n",
            "c",
        ]
    assert texts_of(write(tmp_path / "a.txt", b"\xef\xbb\xbfa\r\nb\rc\r\n")) == ["a\nb\rc\n"]
    start = b"x" * ((1 << 20) - 1)  # so that \r and \n are read apart
    assert texts_of(write(tmp_path / "b.txt", start + b"\r\ny\r")) == [f"{start.decode()}\ny\r"]
    assert texts_of(write(tmp_path / "empty.jsonl", b"")) == []
    assert texts_of(write(tmp_path / "zeros.jsonl.gz", b"")) == []
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}') + bytes(512))
    assert texts_of(tmp_path / "c.jsonl.gz") == ["a"]


def test_files_are_read_once_and_in_order(tmp_path):
    for name in "cab":
        write(tmp_path / f"{name}.txt", name.encode())
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    assert texts_of(tmp_path / "b.txt", tmp_path / "*.txt", tmp_path / "../*/c.txt") == [*"bac"]


# --- blocks ---------------------------------------------------------------------------


@pytest.fixture
def lines(tmp_path):
    records = [json.dumps({"text": f"{k} " * (k % 7 + 1)}) for k in range(2000)]
    records[500] = json.dumps({"text": "long " * 500_000})  # several blocks' worth
    content = "\n".join(records).encode()
    return [write(tmp_path / f"a.jsonl{packed}", content) for packed in ("", ".gz", ".zst")]


def test_blocks_depend_on_content_alone(lines):
    reading = Reading(block_bytes=4096)
    first = [list(Sources([str(path)], reading)) for path in lines]
    digests = [block.digest for block in first[0]]
    assert len(set(digests)) == len(digests) > 10
    for path, blocks in zip(lines, first, strict=True):
        assert blocks == list(Sources([str(path)], reading))
        assert [block.digest for block in blocks] == digests
        assert b"".join(block.content for block in blocks) == lines[0].read_bytes()
        assert [block.source_bytes_done for block in blocks][-1] == path.stat().st_size
        assert sum(block.num_bytes for block in blocks) == lines[0].stat().st_size
    for block in first[0][:-1]:  # the fewest records with so many bytes
        records = block.content.splitlines(keepends=True)
        assert len(block.content) >= 4096 > len(block.content) - len(records[-1])
        assert len(records) == block.num_records
    found = [d.place for block in first[0] for d in pickle.loads(pickle.dumps(block)).documents()]
    assert found == [f"{lines[0]}, line {number}" for number in range(1, 2001)]


@pytest.mark.parametrize(("size", "counts"), [(17, [2, 2, 1]), (18, [2, 2, 1]), (19, [3, 2])])
def test_a_block_is_the_fewest_records(tmp_path, size, counts):
    path = write(tmp_path / "a.txt", b"9 bytes<>" * 4 + b"the last")
    blocks = list(Sources([str(path)], Reading(split_on="<>", block_bytes=size)))
    assert [block.num_records for block in blocks] == counts


def test_blocks_of_several_sources(lines, tmp_path):
    table = pyarrow.table({"text": [f"row {k}" for k in range(1000)]})
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet", row_group_size=300)
    sources = Sources([str(lines[0]), str(tmp_path / "b.parquet")], Reading(block_bytes=4096))
    blocks = list(sources)
    assert sources.num_bytes == blocks[-1].source_bytes_done
    rows = [block for block in blocks if block.kind == "rows"]
    assert {block.source for block in rows} == {str(tmp_path / "b.parquet")}
    assert rows == [block for block in sources if block.kind == "rows"]
    assert len(rows) > 1
    assert rows[1].first == rows[0].num_records + 1
    places = [d.place for block in rows for d in block.documents()]
    assert places == [f"{tmp_path / 'b.parquet'}, row {k}" for k in range(1, 1001)]
    datasets.Dataset(table).save_to_disk(tmp_path / "c")
    assert Sources([str(lines[0]), str(tmp_path / "c")]).num_bytes is None


@pytest.mark.parametrize("limit", [1, 999, 1000, 1001])
def test_no_more_documents_than_asked(tmp_path, limit):
    texts = [f"text {k}" for k in range(1000)]
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    write(tmp_path / "a.jsonl", content)
    write(tmp_path / "b.txt", "\n".join(texts).encode())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.txt", "c.parquet"):
        settings = {"split_on": "\n", "max_documents": limit, "block_bytes": 1000}
        found = texts_of(tmp_path / name, write(tmp_path / "z.txt", b"z"), **settings)
        assert found == [*texts, "z"][:limit]
        blocks = Sources([str(tmp_path / name)], Reading(**settings))
        assert sum(block.num_records for block in blocks) == min(limit, 1000)
    digests = {
        next(iter(Sources([str(tmp_path / "a.jsonl")], Reading(max_documents=number)))).digest
        for number in (1, 2, None)
    }
    assert len(digests) == 3


def test_memory_of_reading_is_a_few_blocks(tmp_path):
    lines = "".join(f'{{"text": "{k:08d} {k * k}"}}\n' * 10 for k in range(100_000)).encode()
    path = write(tmp_path / "a.jsonl.gz", lines)
    tracemalloc.start()
    num_bytes = sum(b.num_bytes for b in Sources([str(path)], Reading(block_bytes=1 << 20)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_bytes == len(lines)
    assert peak < 8 << 20 < len(lines) / 3


def test_sources_that_match_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"no file matches .*\*\.txt"):
        Sources([str(tmp_path / "*.txt")])
    with pytest.raises(ValueError, match="is a folder"):
        Sources([str(tmp_path)])
    for name in ("a.pdf", "a.parquet.gz", "a.gz"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match="unknown kind of file"):
            Sources([str(tmp_path / name)])
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="cannot hold chats"):
        Sources([str(tmp_path / "a.txt")], Reading(chat_column="chat"))
    with pytest.raises(ValueError, match="split_on"):
        Reading(split_on="")


def test_real_corpora(material):
    corpora = material / "corpora"
    assert len(texts_of(corpora / "en/c4_demo.jsonl")) == 300
    assert len(texts_of(corpora / "ja/aozora.jsonl.gz")) == 437
    assert len(texts_of(corpora / "en/gutenberg/*.txt")) == 4

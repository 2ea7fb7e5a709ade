"""What is in a folder of MDS shards."""

import json

import numpy as np
import pytest
from streaming import LocalDataset

from taidscale.corpus.in_memory import write_shards
from taidscale.data.check_shards import check_shards
from taidscale.data.manifest import check_hashes, read_manifest
from taidscale.data.sample_columns import check_columns
from taidscale.data.tokenizer import fingerprint, load_tokenizer

SEQ_LEN = 10
TEXTS = [f"document {k} {'x' * (k % 7)}" for k in range(40)]


@pytest.fixture
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(str(tiny_tokenizer_folder))


@pytest.fixture
def shards(tokenizer, tmp_path):
    write_shards(TEXTS, tokenizer, SEQ_LEN, tmp_path / "out", size_limit=900)
    return tmp_path / "out"


def check(folder, tokenizer, **changes):
    expected = {
        "seq_len": SEQ_LEN,
        "fingerprint": fingerprint(tokenizer.vocabulary()),
        "vocab_size": tokenizer.size,
    }
    return check_shards(folder, **(expected | changes))


def test_concatenated(tokenizer, shards):
    row = [i for text in TEXTS for i in [*tokenizer.encode_batch([text])[0], 256]]
    expected = [row[k : k + SEQ_LEN + 1] for k in range(0, len(row) - SEQ_LEN, SEQ_LEN)]
    dataset = LocalDataset(str(shards))
    assert len(dataset.shards) > 1
    assert [list(dataset[k]["tokens"]) for k in range(len(dataset))] == expected
    assert all(dataset[k]["documents"].sum() == SEQ_LEN + 1 for k in range(len(dataset)))
    assert set(dataset[0]) == {"tokens", "documents"}
    assert dataset[0]["tokens"].dtype == np.uint16
    manifest = check(shards, tokenizer)
    assert manifest == read_manifest(shards) == check_hashes(shards)
    assert manifest.num_samples == len(expected)
    assert (manifest.num_documents, manifest.num_tokens) == (40, len(row))
    assert manifest.num_dropped_tokens == len(row) - len(expected) * SEQ_LEN - 1
    assert manifest.num_padding_tokens == manifest.num_split_documents == 0
    assert manifest.num_weighted_tokens == manifest.num_tokens
    assert [shard.file for shard in manifest.shards] == [
        f"00000/shard.{k:05}.mds" for k in range(len(dataset.shards))
    ]


def test_whole_documents(tokenizer, tmp_path):
    texts = [*TEXTS, "x" * 25]
    manifest = write_shards(texts, tokenizer, 20, tmp_path / "out", packing="best_fit")
    rows = LocalDataset(str(tmp_path / "out"))
    found = []
    for row in (rows[k] for k in range(len(rows))):
        *pieces, padding = np.split(row["tokens"], np.cumsum(row["documents"]))
        assert set(padding.tolist()) <= {256}
        found += [tokenizer.decode(piece[:-1].tolist()) for piece in pieces]
    assert sorted(found) == sorted([*TEXTS, "x" * 20, "x" * 5])  # one x is in both
    lost = sum(21 - int(rows[k]["documents"].sum()) for k in range(len(rows)))
    assert manifest.num_padding_tokens == lost
    assert (manifest.num_split_documents, manifest.num_dropped_tokens) == (1, 0)


def test_exact_fit_drops_nothing(tokenizer, tmp_path):
    manifest = write_shards(["x" * 2 * SEQ_LEN], tokenizer, SEQ_LEN, tmp_path / "out")
    assert (manifest.num_samples, manifest.num_dropped_tokens) == (2, 0)


def test_large_vocabulary_takes_four_bytes(material, tmp_path):
    tokenizer = load_tokenizer(str(material / "tokenizers/qwen2.5"))
    write_shards(TEXTS, tokenizer, SEQ_LEN, tmp_path / "out")
    ids = np.concatenate([row["tokens"] for row in LocalDataset(str(tmp_path / "out"))])
    assert ids.dtype == np.uint32
    assert tokenizer.vocabulary()["<|endoftext|>"] in ids


def test_failed_write_leaves_nothing(tokenizer, tmp_path):
    for texts, count in ((["ab", ""], 3), ([], 0)):
        with pytest.raises(ValueError, match=f"{count} tokens, fewer than one sample of 11"):
            write_shards(texts, tokenizer, SEQ_LEN, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


def test_wrong_output(tokenizer, shards, tmp_path):
    with pytest.raises(ValueError, match="exists already"):
        write_shards(TEXTS, tokenizer, SEQ_LEN, shards)
    with pytest.raises(ValueError, match=r"--seq-len \(0\) must be positive"):
        write_shards(TEXTS, tokenizer, 0, tmp_path / "other")
    (tmp_path / "empty").mkdir()  # is free
    write_shards(TEXTS, tokenizer, SEQ_LEN, tmp_path / "empty")
    check(tmp_path / "empty", tokenizer)


def test_separator(tiny_tokenizer_folder, tmp_path):
    tokenizer = load_tokenizer(str(tiny_tokenizer_folder))
    with pytest.raises(ValueError, match="--separator-id 300 is not an id"):
        write_shards(TEXTS, tokenizer, SEQ_LEN, tmp_path / "out", separator_id=300)
    tokenizer.hf.eos_token = None
    with pytest.raises(ValueError, match="--separator-id"):
        write_shards(TEXTS, tokenizer, SEQ_LEN, tmp_path / "out")
    manifest = write_shards(TEXTS, tokenizer, SEQ_LEN, tmp_path / "out", separator_id=7)
    assert manifest.separator_id == 7


def test_other_settings(tokenizer, shards):
    with pytest.raises(ValueError, match="10 tokens and the run has seq_len 20"):
        check(shards, tokenizer, seq_len=20)
    with pytest.raises(ValueError, match=r"another tokenizer .*\(abcabc\)"):
        check(shards, tokenizer, fingerprint="abcabc")
    assert check(shards, tokenizer, fingerprint=None).num_documents == 40
    with pytest.raises(ValueError, match="ids up to 256 and the model has 256 embeddings"):
        check(shards, tokenizer, vocab_size=256)
    assert check(shards, tokenizer, vocab_size=300)


def test_columns(shards):
    readers = LocalDataset(str(shards)).shards
    check_columns(readers, SEQ_LEN)
    with pytest.raises(ValueError, match="not those of sequences of seq_len 20"):
        check_columns(readers, 20)


def test_missing_files(tokenizer, shards, tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        check(tmp_path / "absent", tokenizer)
    manifest = shards / "manifest.json"
    content = manifest.read_text()
    for broken, message in ((content[:20], "not valid JSON"), ("[]", "not a JSON object")):
        manifest.write_text(broken)
        with pytest.raises(ValueError, match=rf"manifest\.json is {message}"):
            check(shards, tokenizer)
    manifest.unlink()
    with pytest.raises(ValueError, match=r"no manifest\.json in"):
        check(shards, tokenizer)
    manifest.write_text(content)
    index = shards / "index.json"
    index.write_text(index.read_text() + " ")
    with pytest.raises(ValueError, match=r"index\.json is not the one that manifest\.json"):
        check(shards, tokenizer)
    index.unlink()
    with pytest.raises(ValueError, match=r"no index\.json in"):
        check(shards, tokenizer)


def test_damaged_manifest(tokenizer, shards):
    path = shards / "manifest.json"
    content = json.loads(path.read_text())
    for changes, message in (
        ({"format_version": 1}, "format version 1, not 2"),
        ({"num_samples": -1}, "damaged: num_samples"),
        ({"surprise": 0}, "damaged: surprise"),
    ):
        path.write_text(json.dumps(content | changes))
        with pytest.raises(ValueError, match=message):
            check(shards, tokenizer)


def test_truncated_shards(tokenizer, shards):
    path = shards / "00000" / "shard.00001.mds"
    content = path.read_bytes()
    for size in (0, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=rf"00001\.mds has {size} bytes instead of"):
            check(shards, tokenizer)
    path.unlink()
    with pytest.raises(ValueError, match=r"00001\.mds is missing"):
        check(shards, tokenizer)


def test_damaged_shards(tokenizer, shards):
    sizes = [shard.bytes for shard in read_manifest(shards).shards]
    told = []
    check_hashes(shards, told.append)
    assert told == sizes
    path = shards / "00000" / "shard.00001.mds"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert check(shards, tokenizer)  # which looks at the sizes alone
    says = rf"1 of {len(sizes)} shards are damaged: the content of \S*00001\.mds has changed"
    with pytest.raises(ValueError, match=says):
        check_hashes(shards)
    (shards / "00000" / "shard.00000.mds").unlink()
    says = rf"2 of {len(sizes)} shards are damaged: \S*00000\.mds cannot be read \(No such file"
    with pytest.raises(ValueError, match=says):
        check_hashes(shards)

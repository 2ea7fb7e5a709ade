"""What is in a folder of MDS shards."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from streaming import LocalDataset

from taidscale.data.manifest import read_manifest
from taidscale.data.shards import check_shards, write_shards
from taidscale.data.tokenizer import fingerprint, load_tokenizer

SEQ_LEN = 10
TEXTS = [f"document {k} {'x' * (k % 7)}" for k in range(40)]


@pytest.fixture
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(str(tiny_tokenizer_folder))


@pytest.fixture
def shards(tokenizer, tmp_path):
    write_shards(TEXTS, tokenizer, SEQ_LEN, tmp_path / "out", size_limit=600, sources=["here"])
    return tmp_path / "out"


def check(folder, tokenizer, **changes):
    expected = {
        "seq_len": SEQ_LEN,
        "fingerprint": fingerprint(tokenizer.vocabulary()),
        "vocab_size": tokenizer.size,
    }
    return check_shards(folder, **(expected | changes))


@pytest.mark.parametrize("batch_documents", [1, 7, 1000])
def test_packing(tokenizer, tmp_path, batch_documents):
    told = []
    manifest = write_shards(
        ["", *TEXTS],
        tokenizer,
        SEQ_LEN,
        tmp_path / "out",
        batch_documents=batch_documents,
        size_limit=600,
        progress=lambda *numbers: told.append(numbers),
    )
    row = [i for text in TEXTS for i in [*tokenizer.encode_batch([text])[0], 256]]
    expected = [row[k : k + SEQ_LEN + 1] for k in range(0, len(row) - SEQ_LEN, SEQ_LEN)]
    dataset = LocalDataset(str(tmp_path / "out"))
    assert len(dataset.shards) > 1
    assert [list(dataset[k]["tokens"]) for k in range(len(dataset))] == expected
    assert dataset[0]["tokens"].dtype == np.uint16
    assert told[-1] == (manifest.num_documents, manifest.num_tokens) == (40, len(row))
    assert manifest.num_samples == len(expected)
    assert manifest.num_dropped_tokens == len(row) - len(expected) * SEQ_LEN - 1
    assert manifest == check(tmp_path / "out", tokenizer) == read_manifest(tmp_path / "out")


def test_exact_fit_drops_nothing(tokenizer, tmp_path):
    manifest = write_shards(["x" * 2 * SEQ_LEN], tokenizer, SEQ_LEN, tmp_path / "out")
    assert (manifest.num_samples, manifest.num_dropped_tokens) == (2, 0)


def test_large_vocabulary_takes_four_bytes(material, tmp_path):
    tokenizer = load_tokenizer(str(material / "tokenizers/qwen2.5"))
    write_shards(TEXTS, tokenizer, SEQ_LEN, tmp_path / "out")
    ids = np.concatenate([row["tokens"] for row in LocalDataset(str(tmp_path / "out"))])
    assert ids.dtype == np.uint32
    assert tokenizer.separator_id in ids


def test_killed_write_leaves_nothing_visible(tiny_tokenizer_folder, tokenizer, tmp_path):
    program = (
        "import os, signal, sys\n"
        "from taidscale.data.shards import write_shards\n"
        "from taidscale.data.tokenizer import load_tokenizer\n"
        "def documents():\n"
        "    yield 'x' * 9999\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_shards(documents(), load_tokenizer(sys.argv[1]), 10, sys.argv[2],\n"
        "             batch_documents=1, size_limit=600)\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", program, str(tiny_tokenizer_folder), str(out)]
    killed = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert (tmp_path / "out.partial" / "shard.00000.mds").is_file()
    out.mkdir()  # an empty folder is free
    write_shards(TEXTS, tokenizer, SEQ_LEN, out)
    check(out, tokenizer)
    assert not (tmp_path / "out.partial").exists()


def test_failed_write_leaves_nothing(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="3 tokens, fewer than one sample of 11"):
        write_shards(["ab"], tokenizer, SEQ_LEN, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_wrong_output(tokenizer, shards, tmp_path):
    with pytest.raises(ValueError, match="exists already"):
        write_shards(TEXTS, tokenizer, SEQ_LEN, shards)
    with pytest.raises(ValueError, match="not a local folder"):
        write_shards(TEXTS, tokenizer, SEQ_LEN, "s3://bucket/out")
    with pytest.raises(ValueError, match=r"seq_len \(0\) must be positive"):
        write_shards(TEXTS, tokenizer, 0, tmp_path / "other")


def test_separator(tiny_tokenizer_folder, tmp_path):
    tokenizer = load_tokenizer(str(tiny_tokenizer_folder))
    with pytest.raises(ValueError, match="separator_id 300 is not an id"):
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
    assert check(shards, tokenizer, fingerprint=None).sources == ["here"]
    with pytest.raises(ValueError, match="ids up to 256 and the model has 256 embeddings"):
        check(shards, tokenizer, vocab_size=256)
    assert check(shards, tokenizer, vocab_size=300)


def test_missing_files(tokenizer, shards, tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        check(tmp_path / "absent", tokenizer)
    for name in ("manifest.json", "index.json"):
        content = (shards / name).read_text()
        for broken, message in ((content[:20], "not valid JSON"), ("[]", "not a JSON object")):
            (shards / name).write_text(broken)
            with pytest.raises(ValueError, match=f"{name} is {message}"):
                check(shards, tokenizer)
        (shards / name).unlink()
        with pytest.raises(ValueError, match=f"no {name} in"):
            check(shards, tokenizer)
        (shards / name).write_text(content)


def test_damaged_manifest(tokenizer, shards):
    path = shards / "manifest.json"
    content = json.loads(path.read_text())
    for changes, message in (
        ({"format_version": 99}, "format version 99, not 1"),
        ({"num_samples": -1}, "damaged: num_samples"),
        ({"num_samples": 3}, "index.json counts .* and manifest.json 3"),
    ):
        path.write_text(json.dumps(content | changes))
        with pytest.raises(ValueError, match=message):
            check(shards, tokenizer)


def test_damaged_shards(tokenizer, shards):
    path = shards / "shard.00001.mds"
    content = path.read_bytes()
    for size in (0, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=rf"00001\.mds has {size} bytes instead of"):
            check(shards, tokenizer)
    path.unlink()
    with pytest.raises(ValueError, match=r"00001\.mds is missing"):
        check(shards, tokenizer)

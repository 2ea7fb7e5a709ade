"""A corpus becomes the same shards however often and wherever the work was ended."""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from streaming import LocalDataset
from transformers import AutoTokenizer

import tests.ranks  # noqa: F401  its fork server has the big libraries imported
from taidscale.corpus.documents import Reading
from taidscale.corpus.encoding import EncodingSettings
from taidscale.corpus.prepare import prepare
from taidscale.data.manifest import check_hashes, read_manifest
from tests.corpus.prepared import SEQ_LEN, EndedError, content, end_after, pieces

# --- what comes out -------------------------------------------------------------------


def test_workers_change_nothing(make: Any, tmp_path: Path) -> None:
    for packing in ("concatenate", "best_fit"):
        told: list[Any] = []
        manifest = make(tmp_path / packing, packing=packing, progress=told.append)
        expected = content(tmp_path / packing)
        assert len(expected) > len(told) + 2
        assert [p.bytes_done for p in told] == sorted(p.bytes_done for p in told)
        assert told[-1].bytes_done == told[-1].bytes_total
        assert sum(p.counts.documents for p in told) == manifest.num_documents == 153
        check_hashes(tmp_path / packing)
        for num_workers in (1, 2, 3) if packing == "concatenate" else (2,):
            out = tmp_path / f"{packing}-{num_workers}"
            make(out, packing=packing, num_workers=num_workers)
            assert content(out) == expected
    assert not list(tmp_path.glob("*.partial"))


def test_small_sources_share_a_part(make: Any, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text(f"the text of file {number}")
    told: list[Any] = []
    manifest = make(tmp_path / "out", inputs=[str(tmp_path / "*.txt")], progress=told.append)
    assert len(told) == 1
    assert manifest.num_documents == 20


@pytest.mark.parametrize("name", ["qwen2.5", "llm-jp-v2.2-50k"])
def test_real_text(material: Path, tmp_path: Path, name: str) -> None:
    with gzip.open(material / "corpora/ja/aozora.jsonl.gz", "rt") as file:
        japanese = [next(file) for _ in range(12)]
    (tmp_path / "japanese.jsonl").write_text("".join(japanese))
    english = material / "corpora/en/c4_demo.jsonl"
    texts = [json.loads(line)["text"] for line in [*japanese, *english.read_text().splitlines()]]
    folder = str(material / "tokenizers" / name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    ends = {"qwen2.5": tokenizer.pad_token_id}  # <|endoftext|>; its eos ends turns of chats
    expected = [[*document, ends.get(name, tokenizer.eos_token_id)] for document in ids]
    for packing in ("concatenate", "best_fit"):
        manifest = prepare(
            [str(tmp_path / "japanese.jsonl"), str(english)],
            tmp_path / packing,
            Reading(block_bytes=200_000),
            EncodingSettings(tokenizer=folder),
            seq_len=512,
            packing=packing,
        )
        assert manifest.num_documents == len(texts)
        assert manifest.num_tokens == sum(map(len, expected))
        check_hashes(tmp_path / packing)
    # With best fit, the pieces of a document share one token and nothing is lost.
    short = {tuple(document) for document in expected if len(document) <= 513}
    found = pieces(tmp_path / "best_fit")
    assert short <= set(map(tuple, found))
    assert manifest.num_split_documents == sum(len(document) > 513 for document in expected)
    long = [document for document in expected if len(document) > 513]
    wanted = {tuple(d[k : k + 513]) for d in long for k in range(0, len(d) - 1, 512)}
    assert set(map(tuple, found)) == short | wanted
    assert manifest.num_padding_tokens / (513 * manifest.num_samples) < 0.05
    # With concatenation, less than one sample is lost in all.
    manifest = read_manifest(tmp_path / "concatenate")
    assert manifest.num_dropped_tokens <= 512
    seen = manifest.num_samples * 512 + len({s.file.split("/")[0] for s in manifest.shards})
    assert seen == manifest.num_tokens - manifest.num_dropped_tokens


def test_one_part_is_one_row(make: Any, corpus: list[str], tmp_path: Path) -> None:
    texts = [json.loads(x)["text"] for x in Path(corpus[1]).read_text().splitlines()]
    manifest = make(tmp_path / "out", inputs=corpus[1:], bos=False)
    tokenizer = AutoTokenizer.from_pretrained(manifest.tokenizer)
    row = [i for text in texts for i in [*tokenizer(text)["input_ids"], 256]]
    rows = LocalDataset(str(tmp_path / "out"))
    for k in range(len(rows)):
        assert rows[k]["tokens"].tolist() == row[k * SEQ_LEN : (k + 1) * SEQ_LEN + 1]
    assert len(rows) == (len(row) - 1) // SEQ_LEN


def test_beginnings(make: Any, corpus: list[str], material: Path, tmp_path: Path) -> None:
    model = str(material / "tokenizers/sentencepiece/mistral-v1-32k.model")
    if not Path(model).exists():
        model = str(next((material / "tokenizers/sentencepiece").glob("*.model")))
    manifest = make(tmp_path / "out", encoding={"tokenizer": model}, bos=True, packing="best_fit")
    assert manifest.bos_id == 1
    assert sum(piece[0] == 1 for piece in pieces(tmp_path / "out")) == manifest.num_documents
    assert sum(piece.count(1) for piece in pieces(tmp_path / "out")) == manifest.num_documents
    with pytest.raises(ValueError, match="no token to begin a text"):
        make(tmp_path / "other", bos=True)


def test_chats_have_weights(material: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "answer"}]
    lines = "".join(json.dumps({"chat": messages}) + "\n" for _ in range(20))
    (tmp_path / "chats.jsonl").write_text(lines)
    folder = str(material / "tokenizers/qwen2.5")
    manifest = prepare(
        [str(tmp_path / "chats.jsonl")],
        tmp_path / "out",
        Reading(chat_column="chat"),
        EncodingSettings(tokenizer=folder, loss_on="assistant"),
        seq_len=16,
    )
    assert manifest.has_weights
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = LocalDataset(str(tmp_path / "out"))
    told = [i for k in range(4) for i in rows[k]["tokens"][rows[k]["weights"] > 0]]
    text = tokenizer.decode(told)
    assert "answer" in text
    assert "ask" not in text
    assert 0 < manifest.num_weighted_tokens < manifest.num_tokens / 2
    assert {x.name for x in (tmp_path / "out").iterdir()} == {
        "00000",
        "index.json",
        "manifest.json",
        "samples.xxh64",
    }


# --- ended and begun again ------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_goes_on_where_it_ended(make: Any, tmp_path: Path, num_workers: int) -> None:
    make(tmp_path / "whole")
    for num_parts in (2, 4):
        with pytest.raises(EndedError):
            make(tmp_path / "out", num_workers=num_workers, progress=end_after(num_parts))
    partial = tmp_path / "out.partial"
    assert not (tmp_path / "out").exists()
    records = {path: path.stat().st_mtime_ns for path in partial.glob("parts/*.json")}
    assert len(records) >= 4
    (partial / "shards" / "00009").mkdir()  # of a part that was not finished
    (partial / "shards" / "00009" / "shard.00000.mds").write_text("half")
    told: list[Any] = []

    def look(progress: Any) -> None:
        told.append(progress.is_new)
        assert {path: path.stat().st_mtime_ns for path in records} == records

    make(tmp_path / "out", num_workers=num_workers, progress=look)
    # Not always the first ones: workers may end a later part before an earlier one.
    finished = {int(path.stem) for path in records}
    assert told == [number not in finished for number in range(len(told))]
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert not partial.exists()


def test_damaged_part_is_made_again(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "whole")
    with pytest.raises(EndedError):
        make(tmp_path / "out", progress=end_after(3))
    (tmp_path / "out.partial" / "shards" / "00001" / "shard.00000.mds").write_text("cut")
    make(tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_killed_worker(make: Any, tmp_path: Path) -> None:
    def kill_one(progress: Any) -> None:
        children = psutil.Process().children(recursive=True)
        next(child for child in children if child.ppid() != os.getpid()).kill()

    with pytest.raises(ValueError, match=r"worker process was killed.*the same command goes on"):
        make(tmp_path / "out", num_workers=1, progress=kill_one)
    assert list((tmp_path / "out.partial" / "parts").glob("*.json"))
    make(tmp_path / "out", num_workers=1)
    make(tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_workers_end_with_the_first_process(corpus: list[str], tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from taidscale.corpus.workers import start_workers\n"
        "if __name__ == '__main__':\n"
        "    with start_workers(2) as workers:\n"
        "        naps = [workers.submit(time.sleep, 600) for _ in range(2)]\n"
        "        while not all(nap.running() for nap in naps): time.sleep(0.01)\n"
        "        time.sleep(5)\n"
        "        print('running', flush=True)\n"
        "        time.sleep(600)\n"
    )
    (tmp_path / "program.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    process.stdout.readline()
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=300)
    assert alive == []
    process.stdout.close()


def test_an_interrupt_at_the_worst_moment(tmp_path: Path) -> None:
    """It leaves the executor's lock as it was: held, where it came in the middle of a call."""
    program = (
        "import os\n"
        "from taidscale.corpus.workers import start_workers\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        with start_workers(1) as workers:\n"
        "            print(workers.submit(os.getpid).result(), flush=True)\n"
        "            workers._shutdown_lock.acquire()\n"
        "            raise KeyboardInterrupt\n"
        "    except KeyboardInterrupt:\n"
        "        os._exit(130)\n"
    )
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=120,
    )
    assert done.returncode == 130
    deadline = time.monotonic() + 60
    while psutil.pid_exists(int(done.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_other_settings(make: Any, tmp_path: Path) -> None:
    with pytest.raises(EndedError):
        make(tmp_path / "out", progress=end_after(1))
    for changes, says in (
        ({"seq_len": 16}, "seq_len was 32 and is 16"),
        ({"packing": "best_fit"}, "packing was 'concatenate' and is 'best_fit'"),
        ({"separator_id": 7}, "separator_id was 256 and is 7"),
        ({"encoding": {"min_tokens": 2}}, r"encoding\.min_tokens was None and is 2"),
        ({"size_limit": 1 << 20}, "size_limit was 3000 and is 1048576"),
    ):
        with pytest.raises(ValueError, match=rf"begun with other settings: {says}\. "):
            make(tmp_path / "out", **changes)
    make(tmp_path / "out")


def test_changed_input(make: Any, corpus: list[str], tmp_path: Path) -> None:
    with pytest.raises(EndedError):
        make(tmp_path / "out", progress=end_after(3))
    path = tmp_path / "a.jsonl"
    text = path.read_text()
    path.write_text(text.replace("teacher", "preacher", 1))
    says = r"the input has changed: what was \S*a\.jsonl from record 1 on \(digest"
    with pytest.raises(ValueError, match=says):
        make(tmp_path / "out")
    path.write_text("".join(text.splitlines(keepends=True)[:20]))
    with pytest.raises(ValueError, match="the input has changed"):
        make(tmp_path / "out")
    path.write_text(text)
    make(tmp_path / "out")


def test_shorter_input(make: Any, corpus: list[str], tmp_path: Path) -> None:
    with pytest.raises(EndedError):
        make(tmp_path / "out", progress=end_after(6))
    lines = (tmp_path / "b.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_text("".join(lines[:30]))
    (tmp_path / "c.jsonl").write_text("")
    with pytest.raises(ValueError, match="the input has changed"):
        make(tmp_path / "out")

"""Positions, data and settings that do not fit each other."""

import json
import time

import numpy as np
import pytest
import torch

from taidscale.corpus.in_memory import write_shards
from taidscale.data.manifest import read_manifest
from taidscale.data.tokenizer import load_tokenizer
from tests.data.loading import SEQ_LEN, flat, take, training_loader


def test_position_of_other_data(numbered_shards):
    folder = numbered_shards(16, SEQ_LEN)
    loader = training_loader(folder)
    loader.next_step()
    state = loader.state_dict()
    with pytest.raises(RuntimeError, match="before its first step"):
        loader.load_state_dict(state)
    renamed = [{"local": str(folder), "name": "other"}]
    fewer = [{"local": str(numbered_shards(12, SEQ_LEN)), "name": "shards-16-6"}]
    other = [{"local": str(numbered_shards(16, SEQ_LEN, first=1, name="o")), "name": "shards-16-6"}]
    for changes, message in (
        ({"num_canonical_nodes": 2}, "data.num_canonical_nodes was 4 and is 2"),
        ({"seed": 7}, ": seed was 1 and is 7"),
        ({"shuffle": False}, "data.shuffle was True and is False"),
        ({"shuffle_algo": "py1s"}, "data.shuffle_algo was 'py1e' and is 'py1s'"),
        ({"shuffle_block_size": 99}, "data.shuffle_block_size was 262144 and is 99"),
        ({"streams": renamed}, "stream 'shards-16-6', which was read, is gone"),
        ({"streams": fewer}, "'shards-16-6' has other shards"),
        ({"streams": other}, "'shards-16-6' has other shards"),
    ):
        with pytest.raises(ValueError, match=message):
            training_loader(folder, **changes).load_state_dict(state)
    with pytest.raises(ValueError, match="written by another version"):
        training_loader(folder).load_state_dict({"epoch": 0, "sample_in_epoch": 4})


def test_a_stream_that_was_not_read_may_go_and_change(numbered_shards):
    folders = [numbered_shards(8, SEQ_LEN, first=k, name=str(k)) for k in (0, 1000, 2000)]
    streams = [{"local": str(folder), "proportion": 0} for folder in folders]
    streams[0]["proportion"] = 1
    before = training_loader(None, streams=streams)
    expected = take(training_loader(None, streams=streams), 5)
    assert take(before, 1) == expected[:1]
    streams[1]["local"] = str(numbered_shards(12, SEQ_LEN, name="again"))
    for done in (1, 2):  # a checkpoint after the change is one like any other
        after = training_loader(None, streams=streams[:2])
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        assert take(after, 1) == expected[done : done + 1]
        before, streams = after, streams[:1] + streams[1:2]


def test_shuffle_settings_reach_the_order(numbered_shards):
    folder = numbered_shards(64, SEQ_LEN)
    orders = [
        flat(take(training_loader(folder, **settings), 16))
        for settings in (
            {"shuffle_block_size": 16},
            {"shuffle_block_size": 64},
            {"shuffle_algo": "py1br", "shuffle_block_size": 16},
        )
    ]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(64)) for order in orders)


def test_keys_count_shards_within_their_stream(numbered_shards):
    folders = [numbered_shards(8, SEQ_LEN, first=k, name=str(k)) for k in (0, 1000)]
    loader = training_loader(None, streams=[{"local": str(folder)} for folder in folders])
    for batch in flat([loader.next_step() for _ in range(4)]):
        numbers = batch.keys @ torch.tensor([1000, 4, 1])
        assert torch.equal(numbers, batch.input_ids[:, 0])


def test_shards_are_fetched_ahead(tiny_tokenizer_folder, tmp_path):
    tokenizer = load_tokenizer(str(tiny_tokenizer_folder))
    folder, cache = tmp_path / "data", tmp_path / "cache"
    write_shards(["x" * 500], tokenizer, SEQ_LEN, folder, size_limit=500)
    sizes = [shard.samples for shard in read_manifest(folder).shards]
    stream = {"local": str(cache), "remote": str(folder)}
    loader = training_loader(None, streams=[stream], shuffle=False, predownload_steps=10)
    loader.next_step()
    wanted = int(np.searchsorted(np.cumsum(sizes), 11 * 4 - 1, "right")) + 1  # of 11 steps
    assert 3 < wanted < len(sizes)
    deadline = time.monotonic() + 300
    while len(list(cache.rglob("*.mds"))) < wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(list(cache.rglob("*.mds"))) == wanted


def test_unusable_data(numbered_shards, tmp_path):
    with pytest.raises(ValueError, match=r"no index\.json"):
        training_loader(tmp_path)
    with pytest.raises(ValueError, match=f"not those of sequences of seq_len {SEQ_LEN}"):
        training_loader(numbered_shards(4, SEQ_LEN + 1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ids_beyond_the_vocabulary(numbered_shards, num_workers):
    folder = numbered_shards(4, SEQ_LEN, first=96)
    loader = training_loader(folder, num_workers=num_workers, vocab_size=99)
    with pytest.raises(ValueError, match=r"\(0, 0, 3\): token 0 has id 99, .* ends at 98"):
        take(loader, 1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_lost_shard_stops_the_run(numbered_shards, num_workers):
    folder = numbered_shards(16, SEQ_LEN)
    loader = training_loader(folder, num_workers=num_workers)
    max(folder.glob("*.mds")).unlink()
    with pytest.raises(ValueError, match=r"step [1-4]: .*shard\.00003\.mds"):
        take(loader, 5)

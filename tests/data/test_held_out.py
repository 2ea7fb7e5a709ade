"""Samples to measure with."""

import pytest

from taidscale.data.held_out import HeldOutLoader
from tests.data.loading import SEQ_LEN, flat


def held_out(folder, rank=0, world_size=1, **settings):
    defaults = {"seq_len": SEQ_LEN, "batch_size": 2, "vocab_size": 1 << 20}
    return HeldOutLoader(folder, rank=rank, world_size=world_size, **{**defaults, **settings})


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("max_samples", [None, 1, 7])
def test_held_out_samples_come_once(numbered_shards, world_size, max_samples):
    folder = numbered_shards(11, SEQ_LEN)
    loaders = [
        held_out(folder, rank, world_size, max_samples=max_samples) for rank in range(world_size)
    ]
    for _ in range(2):
        batches = [list(loader) for loader in loaders]
        assert [len(rank) for rank in batches] == [len(loaders[0])] * world_size
        seen = []
        for batch in flat(batches):
            assert batch.input_ids.shape == batch.labels.shape == (2, SEQ_LEN)
            seen += [int(row[0]) for row in batch.labels if row[0] != -100]
            assert all(len(row.unique()) == 1 for row in batch.labels)
        assert sorted(seen) == list(range(max_samples or 11))


def test_held_out_errors(numbered_shards, tmp_path):
    with pytest.raises(ValueError, match=r"no index\.json"):
        held_out(tmp_path)
    with pytest.raises(ValueError, match="seq_len 3"):
        held_out(numbered_shards(2, SEQ_LEN), seq_len=3)

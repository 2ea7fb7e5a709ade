"""The next optimizer step's micro-batches."""

import json
from itertools import chain, pairwise

import pytest
import torch
import torch.distributed as dist

from taidscale.config.schema import DataConfig
from taidscale.data.loader import HeldOutLoader, TrainingLoader
from tests.ranks import on_ranks

SEQ_LEN = 6


def training_loader(
    folder, *, micro_batch_size=2, grad_accum_steps=2, num_workers=0, seed=1, **data
):
    streams = data.pop("streams", [{"local": str(folder)}])
    config = {"streams": streams, "num_canonical_nodes": 4, "num_workers": num_workers} | data
    return TrainingLoader(
        DataConfig.model_validate(config),
        seq_len=SEQ_LEN,
        micro_batch_size=micro_batch_size,
        grad_accum_steps=grad_accum_steps,
        seed=seed,
    )


def samples(step):
    return [int(row[0]) for batch in step for row in batch.input_ids]


def take(loader, num_steps):
    return [samples(loader.next_step()) for _ in range(num_steps)]


def flat(steps):
    return list(chain.from_iterable(steps))


def test_micro_batches(numbered_shards):
    step = training_loader(numbered_shards(16, SEQ_LEN)).next_step()
    assert len(step) == 2
    for batch in step:
        moved = batch.to("cpu")
        assert moved.input_ids.shape == moved.labels.shape == (2, SEQ_LEN)
        assert moved.input_ids.dtype == moved.labels.dtype == torch.int64
        assert torch.equal(moved.input_ids, moved.labels)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_leaves_the_global_random_state(numbered_shards, num_workers):
    # A resumed run starts to read later than an undisturbed one; dropout must not notice.
    loader = training_loader(numbered_shards(16, SEQ_LEN), num_workers=num_workers)
    before = torch.get_rng_state()
    take(loader, 5)  # over the end of an epoch
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_sample_once_an_epoch_and_exact_resume(numbered_shards, num_workers):
    folder = numbered_shards(16, SEQ_LEN)  # 4 steps an epoch
    loader = training_loader(folder, num_workers=num_workers)
    order, states = [], [loader.state_dict()]
    for _ in range(9):
        order.append(samples(loader.next_step()))
        states.append(json.loads(json.dumps(loader.state_dict())))
    first, second = flat(order[:4]), flat(order[4:8])
    assert sorted(first) == sorted(second) == list(range(16))
    assert first != second
    for done in range(9):
        resumed = training_loader(folder, num_workers=num_workers)
        resumed.load_state_dict(states[done])
        assert resumed.state_dict() == states[done]
        num_steps = min(3, 9 - done)  # beyond the next epoch end from most positions
        assert take(resumed, num_steps) == order[done : done + num_steps], done
        assert resumed.state_dict() == states[done + num_steps]


@pytest.mark.parametrize("num_samples", [17, 19, 23, 31])
@pytest.mark.parametrize("num_canonical_nodes", [1, 4, 8])
def test_no_sample_twice_in_an_uneven_epoch(numbered_shards, num_samples, num_canonical_nodes):
    loader = training_loader(
        numbered_shards(num_samples, SEQ_LEN), num_canonical_nodes=num_canonical_nodes
    )
    distinct = num_samples - num_samples % num_canonical_nodes
    for _ in range(3):
        epoch = flat(take(loader, distinct // 4))
        assert len(set(epoch)) == len(epoch)
    assert loader.state_dict()["epoch"] == 3


def test_order_depends_on_the_seed_alone(numbered_shards):
    folder = numbered_shards(32, SEQ_LEN)
    order = take(training_loader(folder), 10)
    assert take(training_loader(folder, num_workers=2), 10) == order
    assert take(training_loader(folder, micro_batch_size=1, grad_accum_steps=4), 10) == order
    assert take(training_loader(folder, seed=2), 10) != order
    unshuffled = flat(take(training_loader(folder, shuffle=False, num_canonical_nodes=1), 8))
    assert unshuffled == list(range(32))


def test_steps_longer_than_the_data(numbered_shards):
    loader = training_loader(numbered_shards(8, SEQ_LEN), grad_accum_steps=6)
    assert sorted(flat(take(loader, 2))) == sorted([*range(8)] * 3)
    assert loader.state_dict()["epoch"] == 3


def test_streams_mix_and_fetch(numbered_shards, tmp_path):
    small, large = numbered_shards(8, SEQ_LEN), numbered_shards(24, SEQ_LEN, first=100)
    streams = [
        {"local": str(tmp_path / "cache"), "remote": str(small), "proportion": 3},
        {"local": str(large), "proportion": 1},
    ]
    loader = training_loader(None, streams=streams)
    epoch = flat(take(loader, 8))
    assert sum(number < 100 for number in epoch) == 24
    assert {number for number in epoch if number < 100} == set(range(8))


def test_position_of_other_data(numbered_shards):
    folder = numbered_shards(16, SEQ_LEN)
    loader = training_loader(folder)
    loader.next_step()
    state = loader.state_dict()
    with pytest.raises(RuntimeError, match="before its first step"):
        loader.load_state_dict(state)
    for other, message in (
        (training_loader(numbered_shards(20, SEQ_LEN)), "num_samples 16 and the run has 20"),
        (training_loader(folder, num_canonical_nodes=2), "num_canonical_nodes 4 .* has 2"),
        (training_loader(folder, seed=7), "shuffle_seed 1 and the run has 7"),
        (training_loader(folder, micro_batch_size=3), r"sample 4 .* \(3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(state)


def test_unusable_data(numbered_shards, tmp_path, monkeypatch):
    folder = numbered_shards(3, SEQ_LEN)
    with pytest.raises(ValueError, match="3 samples, too few for one micro-batch"):
        training_loader(folder, micro_batch_size=4, num_canonical_nodes=1)
    with pytest.raises(ValueError, match=r"no index\.json"):
        training_loader(tmp_path)
    with pytest.raises(ValueError, match=f"as seq_len {SEQ_LEN} needs"):
        training_loader(numbered_shards(4, SEQ_LEN + 1))
    with pytest.raises(ValueError, match=r"3 samples, fewer than num_canonical_nodes \(4\)"):
        training_loader(folder)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"num_canonical_nodes \(4\) .* nodes \(3\)"):
        training_loader(folder)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_lost_shard_stops_the_run(numbered_shards, num_workers):
    folder = numbered_shards(16, SEQ_LEN)
    loader = training_loader(folder, num_workers=num_workers)
    max(folder.glob("*.mds")).unlink()
    with pytest.raises(RuntimeError, match="is a shard missing"):
        take(loader, 5)


@pytest.mark.parametrize(("num_workers", "num_samples"), [(0, 15), (2, 16)])
def test_two_ranks(numbered_shards, num_workers, num_samples):
    folder = str(numbered_shards(num_samples, SEQ_LEN))
    loader = training_loader(folder, micro_batch_size=4, grad_accum_steps=1)
    steps, states = [], [loader.state_dict()]
    for _ in range(2 * (num_samples // 4)):
        steps.append(sorted(samples(loader.next_step())))
        states.append(loader.state_dict())
    check_two_ranks(folder=folder, num_workers=num_workers, of_one_rank=steps, states=states)


@on_ranks(2)
def check_two_ranks(folder, num_workers, of_one_rank, states):
    """Both ranks together take the steps of one; each resumes exactly, from its states too."""
    loader = training_loader(folder, grad_accum_steps=1, num_workers=num_workers)
    steps = []
    for state, after in pairwise(states):
        assert loader.state_dict() == state
        steps.append(samples(loader.next_step()))
        assert loader.state_dict() == after
    ranks = [None, None]
    dist.all_gather_object(ranks, steps)
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == of_one_rank
    for done in range(1, len(steps)):
        resumed = training_loader(folder, grad_accum_steps=1, num_workers=num_workers)
        resumed.load_state_dict(states[done])
        assert take(resumed, len(steps[done : done + 2])) == steps[done : done + 2]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("max_samples", [None, 1, 7])
def test_held_out_samples_come_once(numbered_shards, world_size, max_samples):
    folder = numbered_shards(11, SEQ_LEN)
    loaders = [
        HeldOutLoader(
            folder,
            seq_len=SEQ_LEN,
            batch_size=2,
            rank=rank,
            world_size=world_size,
            max_samples=max_samples,
        )
        for rank in range(world_size)
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
        HeldOutLoader(tmp_path, seq_len=SEQ_LEN, batch_size=1, rank=0, world_size=1)
    with pytest.raises(ValueError, match="seq_len 3"):
        HeldOutLoader(numbered_shards(2, SEQ_LEN), seq_len=3, batch_size=1, rank=0, world_size=1)

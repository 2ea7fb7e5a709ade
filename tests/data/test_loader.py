"""The next optimizer step's micro-batches."""

import json
import time
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from taidscale.config.data import DataConfig
from taidscale.data.corpus.in_memory import write_shards
from taidscale.data.held_out import HeldOutLoader
from taidscale.data.loader import TrainingLoader
from taidscale.data.manifest import read_manifest
from taidscale.data.tokenizer import load_tokenizer
from tests.data.conftest import write_samples
from tests.ranks import run_on_ranks

SEQ_LEN = 6


def training_loader(
    folder, *, micro_batch_size=2, grad_accum_steps=2, seed=1, vocab_size=1 << 20, **data
):
    streams = data.pop("streams", [{"local": str(folder)}])
    config = {"streams": streams, "num_canonical_nodes": 4, "num_workers": 0} | data
    return TrainingLoader(
        DataConfig.model_validate(config),
        seq_len=SEQ_LEN,
        micro_batch_size=micro_batch_size,
        grad_accum_steps=grad_accum_steps,
        seed=seed,
        vocab_size=vocab_size,
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
        assert moved.weights is moved.positions is None
        # Sample k is the (k % 4)th of shard k // 4 of stream 0.
        numbers = batch.keys @ torch.tensor([10**6, 4, 1])
        assert torch.equal(numbers, batch.input_ids[:, 0])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_leaves_the_global_random_state(numbered_shards, num_workers):
    # A resumed run starts to read later than an undisturbed one; dropout must not notice.
    loader = training_loader(numbered_shards(16, SEQ_LEN), num_workers=num_workers)
    before = torch.get_rng_state()
    take(loader, 5)  # over the end of a pass
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_exact_resume(numbered_shards, num_workers):
    folder = numbered_shards(18, SEQ_LEN)  # 4 and a half steps a pass

    def loader():
        return training_loader(folder, num_workers=num_workers)

    undisturbed = loader()
    expected, states = [], []
    for _ in range(10):
        states.append(json.loads(json.dumps(undisturbed.state_dict())))
        expected.append(samples(undisturbed.next_step()))
    for done in (0, 1, 4, 5, 8):
        resumed = loader()
        resumed.load_state_dict(states[done])
        assert resumed.state_dict() == states[done]
        assert take(resumed, 10 - done) == expected[done:]


def test_order_depends_on_the_seed_alone(numbered_shards):
    folder = numbered_shards(32, SEQ_LEN)
    order = take(training_loader(folder), 10)
    assert take(training_loader(folder, num_workers=2), 10) == order
    assert take(training_loader(folder, micro_batch_size=1, grad_accum_steps=4), 10) == order
    assert take(training_loader(folder, seed=2), 10) != order
    unshuffled = flat(take(training_loader(folder, shuffle=False), 8))
    assert unshuffled == list(range(32))


def test_steps_longer_than_the_data(numbered_shards):
    loader = training_loader(numbered_shards(8, SEQ_LEN), grad_accum_steps=6)
    assert sorted(flat(take(loader, 2))) == sorted([*range(8)] * 3)
    assert loader.passes == {"shards-8-6": 3.0}


# --- other numbers of ranks -----------------------------------------------------------


def read_on_ranks(folder, out, *, world_size, num_steps, state=None, **loader):
    """Samples of each step, in the order rank after rank, and the state after them."""
    arguments = {"folder": folder, "out": out, "num_steps": num_steps, "state": state, **loader}
    run_on_ranks(world_size, __name__, "read", arguments)
    ranks = [json.loads((out / f"{rank}.json").read_text()) for rank in range(world_size)]
    assert all(rank["state"] == ranks[0]["state"] for rank in ranks)
    return [flat(step) for step in zip(*(r["steps"] for r in ranks), strict=True)], ranks[0][
        "state"
    ]


def read(folder, out, num_steps, state, **settings):
    from torch import distributed as dist

    loader = training_loader(folder, **settings)
    if state is not None:
        loader.load_state_dict(state)
    steps = take(loader, num_steps)
    result = {"steps": steps, "state": loader.state_dict()}
    (out / f"{dist.get_rank()}.json").write_text(json.dumps(result))


def test_any_ranks_take_the_same_samples_in_the_same_order(numbered_shards, tmp_path):
    """Two passes with W = 1, 2, 4, and with changes of W and B in between."""
    folder = numbered_shards(60, SEQ_LEN)  # 7.5 steps of 8 samples a pass
    layouts = {1: (4, 2), 2: (1, 4), 4: (2, 1)}  # W: B, micro-batches

    def steps_of(world_size, num_steps, state=None, num_workers=0):
        size, accum = layouts[world_size]
        return read_on_ranks(
            folder,
            tmp_path,
            world_size=world_size,
            num_steps=num_steps,
            state=state,
            micro_batch_size=size,
            grad_accum_steps=accum,
            num_workers=num_workers,
        )

    expected, end = steps_of(1, 15)
    assert Counter(flat(expected)) == dict.fromkeys(range(60), 2)
    first_pass = flat(expected)[:56]  # the eighth step straddles the passes
    assert len(set(first_pass)) == 56
    for world_size in (2, 4):
        assert steps_of(world_size, 15, num_workers=1) == (expected, end)
    found, state = [], None
    for world_size, num_steps in ((2, 3), (4, 6), (1, 2), (4, 4)):
        steps, state = steps_of(world_size, num_steps, state)
        found += steps
    assert (found, state) == (expected, end)


def test_another_global_batch_size_goes_on_with_the_next_sample(numbered_shards):
    folder = numbered_shards(40, SEQ_LEN)
    before = training_loader(folder)
    seen = flat(take(before, 4))
    after = training_loader(folder, micro_batch_size=3, grad_accum_steps=4)
    after.load_state_dict(before.state_dict())
    seen += flat(take(after, 2))
    assert sorted(seen) == list(range(40))


# --- mixing ---------------------------------------------------------------------------


def three_streams(numbered_shards, **weights):
    sizes = {"ja": (40, 0), "en": (12, 1000), "math": (8, 2000)}
    return [
        {"local": str(numbered_shards(n, SEQ_LEN, first=k, name=name)), "name": name}
        | weights.get(name, {})
        for name, (n, k) in sizes.items()
    ]


def stream_counts(numbers):
    return [sum(number // 1000 == stream for number in numbers) for stream in range(3)]


def test_mixed_by_proportion_within_a_sample(numbered_shards):
    weights = {name: {"proportion": p} for name, p in (("ja", 7), ("en", 2), ("math", 1))}
    streams = three_streams(numbered_shards, **weights)
    loader = training_loader(None, streams=streams, micro_batch_size=50, grad_accum_steps=2)
    steps = take(loader, 100)
    for num_steps in range(1, 101):
        counts = stream_counts(flat(steps[:num_steps]))
        assert counts == pytest.approx([70 * num_steps, 20 * num_steps, 10 * num_steps], abs=1)
    # Each stream goes on with its own passes: all of it as often as the rest, give or take one.
    often = Counter(flat(steps))
    assert {often[number] for number in range(40)} == {175}
    assert {often[number] for number in range(1000, 1012)} == {166, 167}
    assert {often[number] for number in range(2000, 2008)} == {125}


def test_mixed_by_size_repeat_and_choice(numbered_shards):
    streams = three_streams(numbered_shards)
    by_size = training_loader(None, streams=streams)
    assert sorted(flat(take(by_size, 15))) == [*range(40), *range(1000, 1012), *range(2000, 2008)]
    streams[1]["repeat"], streams[2]["choose"] = 2.0, 4
    weighted = flat(take(training_loader(None, streams=streams), 17))
    assert stream_counts(weighted) == [40, 24, 4]
    assert len(set(weighted)) == 40 + 12 + 4


def test_the_mix_changes_at_the_step_asked_for(numbered_shards, tmp_path):
    weights = {name: {"proportion": p} for name, p in (("ja", 0.5), ("en", 0.5), ("math", 0.0))}
    settings = {
        "streams": three_streams(numbered_shards, **weights),
        "phases": [{"from_step": 5, "proportions": {"math": 3, "ja": 1}}],
    }
    steps = take(training_loader(None, **settings), 10)
    counts = [stream_counts(step) for step in steps]
    assert counts == [[2, 2, 0]] * 5 + [[1, 0, 3]] * 5
    for world_size in (1, 2):
        part, state = read_on_ranks(
            None,
            tmp_path,
            world_size=1,
            num_steps=4,
            micro_batch_size=4,
            grad_accum_steps=1,
            **settings,
        )
        rest, _ = read_on_ranks(
            None,
            tmp_path,
            world_size=world_size,
            num_steps=6,
            state=state,
            micro_batch_size=2 // world_size,
            **settings,
        )
        assert part + rest == steps


def test_a_stream_may_be_added_on_the_way(numbered_shards):
    folders = [numbered_shards(8, SEQ_LEN, first=k, name=str(k)) for k in (0, 1000)]
    before = training_loader(folders[0])
    take(before, 1)
    streams = [{"local": str(folder)} for folder in reversed(folders)]
    after = training_loader(None, streams=streams)
    after.load_state_dict(before.state_dict())
    assert flat(take(after, 4)) != flat(take(before, 4))
    assert after.passes == {"0-8-6": 1.5, "1000-8-6": 1.0}


# --- what does not fit ----------------------------------------------------------------


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
        ({"seed": 7}, "data.seed was 1 and is 7"),
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
    deadline = time.monotonic() + 20
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


# --- documents, weights and padding ---------------------------------------------------


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Two samples of 7 tokens: pieces of 3 and 4; and of 1, 4 and 2 of padding."""
    return write_samples(
        tmp_path / "packed",
        [[10, 11, 12, 20, 21, 22, 23], [30, 40, 41, 42, 43, 0, 0]],
        documents=[[3, 4], [1, 4]],
        weights=[[1, 0, 1, 1, 0.5, 1, 1], [1, 1, 1, 1, 1, 0, 0]],
    )


def test_weights_and_padding_reach_the_micro_batch(packed):
    (batch,) = training_loader(packed, grad_accum_steps=1, shuffle=False).next_step()
    assert batch.input_ids.tolist() == [[10, 11, 12, 20, 21, 22], [30, 40, 41, 42, 43, 0]]
    assert batch.labels.tolist() == [[-100, 12, 20, 21, 22, 23], [40, 41, 42, 43, -100, -100]]
    assert batch.weights.tolist() == [[0, 1, 1, 0.5, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert batch.positions is None


def test_padding_is_not_learnt_where_nothing_has_weights(tmp_path):
    rows = [[10, 11, 12, 20, 21, 9, 9], [30, 31, 32, 33, 34, 35, 36]]
    folder = write_samples(tmp_path / "padded", rows, documents=[[3, 2], [7]])
    (batch,) = training_loader(folder, grad_accum_steps=1, shuffle=False).next_step()
    assert batch.labels.tolist() == [[11, 12, 20, 21, -100, -100], [31, 32, 33, 34, 35, 36]]
    assert batch.weights is None


def test_documents_reach_the_micro_batch(packed):
    settings = {"shuffle": False, "attention": "within_document"}
    (batch,) = training_loader(packed, grad_accum_steps=1, **settings).next_step()
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 2], [0, 0, 1, 2, 3, 0]]
    assert batch.labels.tolist() == [[-100, 12, -100, 21, 22, 23], [-100, 41, 42, 43, -100, -100]]
    assert batch.weights.tolist() == [[0, 1, 0, 0.5, 1, 1], [0, 1, 1, 1, 0, 0]]


def test_all_streams_have_weights_where_one_has(packed, numbered_shards):
    streams = [{"local": str(numbered_shards(4, SEQ_LEN))}, {"local": str(packed)}]
    steps = [training_loader(None, streams=streams).next_step() for _ in range(2)]
    for batch in flat(steps):
        of_numbered = batch.keys[:, 0] == 0
        assert (batch.weights[of_numbered] == 1).all()
        assert batch.weights.dtype == torch.float32


# --- held out -------------------------------------------------------------------------


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

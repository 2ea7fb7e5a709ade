"""The next optimizer step's micro-batches."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from multiprocessing import active_children

import pytest
import torch

from tests.data.loading import SEQ_LEN, flat, samples, take, three_streams, training_loader
from tests.ranks import run_on_ranks


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


def test_a_worker_ends_for_its_rank_alone(numbered_shards):
    others = set(active_children())
    loader = training_loader(numbered_shards(64, SEQ_LEN), num_workers=1)
    take(loader, 1)
    (worker,) = set(active_children()) - others
    signals = "import os, sys; [os.kill(int(sys.argv[1]), number) for number in (15, 10, 2)]"
    subprocess.run([sys.executable, "-c", signals, str(worker.pid)], check=True)
    time.sleep(0.5)
    assert worker.is_alive()
    take(loader, 1)
    os.kill(worker.pid, 15)  # as Python does to workers that are left when it ends, and waits
    worker.join(300)
    assert not worker.is_alive()


def test_a_worker_that_dies_is_no_fault_of_the_data(numbered_shards):
    """What the user can mend is a ValueError, after which nothing is started again."""
    others = set(active_children())
    loader = training_loader(numbered_shards(64, SEQ_LEN), num_workers=1)
    take(loader, 1)
    (worker,) = set(active_children()) - others
    os.kill(worker.pid, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, [worker.pid, signal.SIGKILL]).start()
    with pytest.raises(RuntimeError, match=r"cannot read the data of step \d+: .*has died"):
        take(loader, 100)  # until what it has sent is read; then the rank waits for it


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
    assert loader.epochs == {"shards-8-6": 3.0}


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
    assert after.epochs == {"0-8-6": 1.5, "1000-8-6": 1.0}

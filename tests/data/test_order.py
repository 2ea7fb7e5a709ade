"""Which sample comes at which place of a run."""

from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taidscale.data.order import Passes, Position, Shuffle, mix, take_step

SHUFFLE = Shuffle("py1e", seed=1, num_lanes=8, block_size=50)


def run(passes, shares, sizes, position=None):
    """Steps of the given sizes: (stream, sample) of each, and the position after each."""
    position = position or Position()
    steps, positions = [], []
    for size in sizes:
        step, position = take_step(passes, position, shares, size)
        steps.append(list(zip(step.streams.tolist(), step.samples.tolist(), strict=True)))
        positions.append(position)
    return steps, positions


@settings(deadline=None, max_examples=60)
@given(
    shards=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    num_lanes=st.integers(1, 20),
    algorithm=st.sampled_from(["py1e", "py1br", "py1s", "py2s", None]),
    pieces=st.lists(st.integers(0, 30), min_size=1, max_size=8),
)
def test_a_pass_holds_every_sample_once(shards, num_lanes, algorithm, pieces):
    num_samples = sum(shards)
    passes = Passes("a", shards, Shuffle(algorithm, 3, num_lanes, 10))
    whole, lanes = passes.take(0, 3 * num_samples)
    for start in range(0, 3 * num_samples, num_samples):
        assert sorted(whole[start : start + num_samples]) == list(range(num_samples))
    assert ((lanes >= 0) & (lanes < 1)).all()
    first = 0
    for count in pieces:
        samples, of_lanes = passes.take(first, count)
        end = min(first + count, len(whole))
        assert (samples[: end - first] == whole[first:end]).all()
        assert (of_lanes[: end - first] == lanes[first:end]).all()
        first = end


def test_order_depends_on_seed_name_and_pass():
    orders = [Passes(n, [40] * 5, Shuffle("py1e", s, 8, 50)) for n, s in (("a", 1), ("b", 1))]
    orders.append(Passes("a", [40] * 5, Shuffle("py1e", 2, 8, 50)))
    orders.append(Passes("a", [40] * 5, SHUFFLE))
    first, other_name, other_seed, same = (passes.take(0, 200)[0].tolist() for passes in orders)
    assert first == same
    assert len({tuple(o) for o in (first, other_name, other_seed)}) == 3
    assert orders[0].take(200, 200)[0].tolist() != first
    unshuffled = Passes("a", [40] * 5, Shuffle(None, 1, 8, 50))
    assert unshuffled.take(190, 20)[0].tolist() == [*range(190, 200), *range(10)]


@pytest.mark.parametrize("num_nodes", [2, 4, 8])
def test_a_node_reads_its_own_shards(num_nodes):
    """Where the samples of a step divide over the lanes, nodes share no shard."""
    passes = {"a": Passes("a", [16] * 64, SHUFFLE)}
    shards_of = [set() for _ in range(num_nodes)]
    steps, _ = run(passes, {"a": 1.0}, [32] * 32)
    for step in steps:
        for node, samples in enumerate(np.array(step)[:, 1].reshape(num_nodes, -1)):
            shards_of[node] |= set((samples // 16).tolist())
    assert sum(map(len, shards_of)) == len(set.union(*shards_of)) == 64


@settings(deadline=None, max_examples=60)
@given(
    weights=st.lists(st.sampled_from([0.1, 1 / 3, 0.25, 2.0, 7.0]), min_size=1, max_size=5),
    pieces=st.lists(st.integers(1, 90), min_size=1, max_size=12),
)
def test_mix_keeps_to_its_shares_however_it_is_cut(weights, pieces):
    shares = [weight / sum(weights) for weight in weights]
    total = sum(pieces)
    whole = mix(shares, [0] * len(shares), total)
    taken, parts = np.zeros(len(shares), int), []
    for count in pieces:
        parts.append(mix(shares, taken.tolist(), count))
        taken += np.bincount(parts[-1], minlength=len(shares))
        due = np.array(shares) * taken.sum()
        assert (abs(taken - due) <= 1 + len(shares) / 2).all()
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_by_size_all_streams_end_together():
    sizes = [30, 7, 13]
    drawn = mix([size / 50 for size in sizes], [0, 0, 0], 100)
    for start in (0, 50):
        assert np.bincount(drawn[start : start + 50]).tolist() == sizes


def test_steps_of_any_size_take_the_same_samples():
    def passes():
        return {"a": Passes("a", [10] * 9, SHUFFLE), "b": Passes("b", [7, 8], SHUFFLE)}

    shares = {"a": 0.7, "b": 0.3}
    even, _ = run(passes(), shares, [24] * 10)
    uneven, _ = run(passes(), shares, [24, 24, 8, 16, 48, 120])
    cuts = np.cumsum([0, 1, 1, 1, 2, 5])
    joined = [*uneven[:2], uneven[2] + uneven[3], uneven[4], uneven[5]]
    for (first, last), step in zip(pairwise(cuts.tolist()), joined, strict=True):
        assert sorted(chain.from_iterable(even[first:last])) == sorted(step)


def test_the_mix_changes_at_a_step():
    passes = {name: Passes(name, [50] * 4, SHUFFLE) for name in "abc"}
    _, positions = run(passes, {"a": 0.8, "b": 0.2, "c": 0.0}, [10] * 5)
    assert positions[-1].taken == {"a": 40, "b": 10}
    steps, after = run(passes, {"a": 0.0, "b": 0.5, "c": 0.5}, [10] * 4, positions[-1])
    assert all(sum(stream == 2 for stream, _ in step) == 5 for step in steps)
    assert after[-1].taken == {"a": 40, "b": 30, "c": 20}
    assert (after[-1].step, after[-1].taken_of_mix) == (9, {"b": 20, "c": 20})
    seen = {sample for step in steps for stream, sample in step if stream == 1}
    assert len(seen) == 20
    assert not seen & set(passes["b"].take(0, 10)[0].tolist())  # those that were read before


def test_a_sample_is_due_in_the_middle_of_its_share():
    assert mix([0.8, 0.2], [0, 0], 10).tolist() == [0, 0, 1, 0, 0] * 2


def test_neither_the_order_of_streams_nor_those_not_read_matter():
    weights = {"a": 0.1, "b": 0.7, "c": 0.2}
    passes = {name: Passes(name, [50] * 4, SHUFFLE) for name in "abcd"}
    expected, position = run(passes, weights, [10] * 6)
    turned = {name: passes[name] for name in "dcba"}
    names = list(turned)
    steps, after = run(turned, dict(reversed(weights.items())) | {"d": 0.0}, [10] * 6)
    for step, same in zip(steps, expected, strict=True):
        assert [(names[k], sample) for k, sample in step] == [("abcd"[k], x) for k, x in same]
    assert after == position


def test_lanes_are_spread_and_keep_their_samples():
    """Any few neighbours are from all nodes; a sample is in the same lane in every pass."""
    passes = Passes("a", [10] * 63, Shuffle("py1e", 1, 64, 100))
    samples, lanes = passes.take(0, 2 * 630)
    for start in range(0, 9 * 64, 8):  # the tenth row is not whole
        assert sorted((lanes[start : start + 8] * 8).astype(int)) == list(range(8))
    first, second = (dict(zip(samples[k : k + 630], lanes[k:], strict=False)) for k in (0, 630))
    assert first == second
    sizes = np.bincount((lanes[:630] * 64).astype(int))
    assert sizes.tolist() == np.diff(630 * np.arange(65) // 64).tolist()

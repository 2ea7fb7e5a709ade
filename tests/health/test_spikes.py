"""Spikes of the loss are seen, ordinary losses are not."""

import json
import math
import random

import pytest

from taidscale.config.health import SpikeConfig
from taidscale.health.spikes import LossSpikes

MIX = {"japanese": 0.7, "english": 0.3}


def curve(num_steps: int, seed: int = 0) -> list[float]:
    """A loss that falls, with noise."""
    chance = random.Random(seed)
    return [2.0 + 8.0 * math.exp(-n / 200) + chance.gauss(0.0, 0.05) for n in range(num_steps)]


def spikes_of(losses: list[float], **settings: float) -> list[int]:
    spikes = LossSpikes(SpikeConfig(**settings))
    return [step for step, loss in enumerate(losses) if spikes.see(loss, MIX)]


@pytest.mark.parametrize("seed", range(5))
def test_a_falling_noisy_loss_has_none(seed: int) -> None:
    assert spikes_of(curve(2000, seed)) == []


def test_spikes_are_found_and_explained() -> None:
    losses = curve(1200)
    for step in (900, 901, 1050):
        losses[step] += 1.5
    assert spikes_of(losses) == [900, 901, 1050]
    spikes = LossSpikes(SpikeConfig())
    found = [spike for loss in losses if (spike := spikes.see(loss, MIX))]
    assert str(found[2]).startswith(f"the loss is {losses[1050]:.4f}, ")
    assert "robust standard deviations above the median of the last ones" in str(found[2])


def test_a_sudden_fall_and_non_finite_losses_are_none() -> None:
    losses = curve(400)
    losses[300:303] = [0.0, math.nan, math.inf]
    assert spikes_of(losses) == []


def test_a_new_level_becomes_normal() -> None:
    losses = [loss + (3.0 if step >= 400 else 0.0) for step, loss in enumerate(curve(600))]
    found = spikes_of(losses, window=64)
    assert found[0] == 400
    assert 420 <= found[-1] <= 435


def test_nothing_is_said_before_enough_was_seen() -> None:
    losses = curve(60)
    losses[7] += 100
    losses[31] += 100
    losses[33] += 100
    assert spikes_of(losses) == [33]


def test_a_constant_loss_may_move_a_little() -> None:
    losses = [1.0] * 200 + [1.005] + [1.0] * 50 + [1.02]
    assert spikes_of(losses) == [251]


def test_a_resumed_run_decides_like_the_undisturbed_one() -> None:
    losses = curve(300, seed=3)
    losses[200] += 0.9
    for deviations in (1.0, 2.0, 8.0):
        config = SpikeConfig(deviations=deviations)
        undisturbed, resumed = LossSpikes(config), LossSpikes(config)
        for loss in losses[:150]:
            undisturbed.see(loss, MIX)
        resumed.load_json(json.loads(json.dumps(undisturbed.to_json())))
        rest = losses[150:]
        assert [undisturbed.see(x, MIX) for x in rest] == [resumed.see(x, MIX) for x in rest]


def test_a_step_of_the_loss_where_the_mix_changes_is_none() -> None:
    spikes, losses = LossSpikes(SpikeConfig(window=16)), curve(300)
    annealing = {"mathematics": 1.0}
    found = []
    for step, loss in enumerate(losses):
        mix, higher = (annealing, 5.0) if step >= 100 else (MIX, 0.0)
        strange = 3.0 if step in (60, 101, 250) else 0.0  # 101: nothing yet to compare it with
        if spikes.see(loss + higher + strange, mix):
            found.append(step)
    assert found == [60, 250]


def test_a_resumed_run_knows_the_mix_of_what_it_remembers() -> None:
    spikes = LossSpikes(SpikeConfig(window=16))
    for loss in curve(100):
        spikes.see(loss, MIX)
    resumed = LossSpikes(SpikeConfig(window=16))
    resumed.load_json(json.loads(json.dumps(spikes.to_json())))
    assert resumed.see(50.0, {"english": 0.3, "japanese": 0.7})
    assert resumed.see(50.0, {"english": 1.0}) is None


def test_what_an_older_version_remembered_is_forgotten() -> None:
    spikes = LossSpikes(SpikeConfig(window=16))
    spikes.load_json(curve(100))
    assert spikes.see(50.0, MIX) is None

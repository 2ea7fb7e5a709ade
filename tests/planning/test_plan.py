"""The planner's arithmetic against values derived by hand, and its answers."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taidscale.config.load import ConfigError, check_world, dump_config, load_config
from taidscale.file_names import EVENTS_FILE, METRICS_FILE
from taidscale.planning.communication import traffic
from taidscale.planning.disk import disk
from taidscale.planning.duration import Efficiency, duration
from taidscale.planning.gpus import GPUS, Gpu, find_gpu
from taidscale.planning.measured import read_measured
from taidscale.planning.memory import memory
from taidscale.planning.scaling import scaling
from taidscale.planning.shapes import entries, run_shapes
from taidscale.planning.suggestions import (
    fits,
    leaves_room,
    nearest_that_fits,
    suggest,
    with_settings,
)
from taidscale.planning.workload import Workload

CONFIGS = Path(__file__).parents[2] / "configs"
H100 = GPUS["h100-80g"]


def test_unknown_gpus_are_told_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"'h100-80gb' is not known; did you mean h100-80g\?.*b200"
    ):
        find_gpu("h100-80gb")


def tinyswallow(world_size: int = 64, **settings: Any) -> Workload:
    config = load_config(CONFIGS / "tinyswallow-1.5b.yaml")
    load = Workload(config, *run_shapes(config), world_size)
    changed = with_settings(load, settings)
    assert changed is not None
    return changed


def test_teacher_by_hand() -> None:
    # A layer of Qwen2.5-32B has 2·5120² + 2·1024·5120 in attention and 3·5120·27648 in its MLP,
    # split by 8, as the biases of q, k and v; two norms are whole. 64 layers, and the last norm.
    split = 2 * 5120**2 + 2 * 1024 * 5120 + 3 * 5120 * 27_648 + 5120 + 2 * 1024
    trunk = 64 * (split // 8 + 2 * 5120) + 5120
    # The embedding is whole, of the head there are the rows of 151,936 / 8 entries.
    expected = 2 * (trunk + 152_064 * 5120 + 18_992 * 5120)
    parts = memory(tinyswallow()).peak.parts
    assert parts["teacher shard"] == expected == 9_554_454_528


def test_states_by_hand() -> None:
    load = tinyswallow()
    parts = memory(load).of_phase("loss").parts
    own = 1_543_714_304 / 64
    assert parts["optimizer states"] == pytest.approx(12 * own, rel=1e-4)
    assert parts["gradients"] == pytest.approx(4 * own, rel=1e-4)
    assert parts["student parameters"] == pytest.approx(2 * own, rel=1e-4)
    assert parts["gradient bucket"] == 4 * 500_000_000
    assert parts["teacher hidden states"] == 8 * 2 * 4096 * 5120 * 2
    # Two pairs of buffers, rows padded to 64 entries: 1,024 MiB hold 7,067 tokens; in 10 chunks.
    assert load.chunk_tokens == 6656
    assert parts["logits of a chunk"] == 2 * 6656 * 19_008 * 4
    assert parts["head gradient"] == 4 * 18_992 * 1536
    # Without sharding, everything is there: bf16 weights, float32 sums, and by 64 the rest.
    whole = memory(with_zero_1()).of_phase("optimizer").parts
    assert whole["student parameters"] == 2 * 1_543_714_304
    assert whole["gradients"] == 4 * 1_543_714_304


def with_zero_1() -> Workload:
    return tinyswallow(**{"zero.stage": 1})


def test_checkpointing_and_offload_save_what_they_should() -> None:
    without = tinyswallow(**{"student.gradient_checkpointing": False})
    tokens, saved = 2 * 4096, 28
    # A layer keeps for each token, in bytes: two norms of 4 + 2 + 2 for 1,536 elements, 2 for q and
    # the output (1,536 each), k and v (256 each), 4 for each of 12 heads, 2·4 for 8,960 of the MLP.
    layer = 2 * 8 * 1536 + 2 * (2 * 1536 + 2 * 256) + 4 * 12 + 8 * 8960
    ends = 8 * 1536 + 2 * 128 + 24
    parts = memory(without).of_phase("student").parts
    assert parts["student activations"] == tokens * (saved * layer + ends)
    offloaded = memory(tinyswallow(**{"zero.offload_optimizer": True}))
    assert "optimizer states" not in offloaded.peak.parts
    assert offloaded.host == pytest.approx(20 * 1_543_714_304 / 64, rel=1e-4)


def test_traffic_by_hand() -> None:
    found = {one.purpose: one for one in traffic(tinyswallow())}
    # 64 layers reduce 65,536 x 5,120 bf16 twice, in each of 4 micro-batches; a ring sends it twice.
    reduced = 4 * 64 * 2 * 65_536 * 5120 * 2
    assert found["teacher's layers"].inside == pytest.approx(2 * reduced * 7 / 8)
    assert found["teacher's layers"].across == 0
    # Forward and backward gather 2 bytes a parameter; 7 of 8 nodes' shares enter by 8 adapters.
    weights = 4 * 2 * 2 * 1_543_714_304
    assert found["ZeRO's weights"].inside == pytest.approx(weights * 63 / 64)
    assert found["ZeRO's weights"].across == pytest.approx(weights * 7 / 8 / 8)
    assert found["ZeRO's gradients"].across == pytest.approx(4 * 4 * 1_543_714_304 * 7 / 8 / 8)
    alone = replace(tinyswallow(), world_size=1)
    alone = replace(alone, config=alone.config.model_copy(update={"teacher": None}), teacher=None)
    assert traffic(alone) == []


def test_duration_by_hand() -> None:
    gpu = Gpu("plain", flops=1e15, memory=1e12, memory_bandwidth=1e30, nvlink=1e30, network=1e30)
    assumed = Efficiency(compute=0.5, hop_seconds=0)
    found = duration(tinyswallow(), gpu, assumed)
    tokens = 512 * 4096 / 64
    # Trunk of the teacher: 2 a matrix entry, and 2·5120·4097 for attention in each of 64 layers.
    matrices = 64 * (2 * 5120**2 + 2 * 1024 * 5120 + 3 * 5120 * 27_648)
    teacher = 2 * matrices + 64 * 2 * 5120 * 4097
    assert found.teacher == pytest.approx(tokens * teacher / 5e14)
    assert found.waiting == pytest.approx(0, abs=1e-9)
    again = duration(tinyswallow(**{"student.gradient_checkpointing": False}), gpu, assumed)
    assert found.student == pytest.approx(again.student * 4 / 3)
    assert found.flops == again.flops
    assert found.mfu == pytest.approx(found.flops / (found.step_seconds * 64e15))
    twice = duration(tinyswallow(), gpu, assumed, factor=2)
    assert twice.step_seconds == pytest.approx(2 * found.step_seconds)


def test_disk_by_hand() -> None:
    found = disk(tinyswallow())
    assert found.data == 12_000 * 512 * 4097 * 4
    assert found.checkpoint == 14 * 1_543_714_304
    assert found.num_checkpoints == 4  # keep_last 3, and the one being written
    assert found.host_copy == 14 * 1_543_714_304 // 8
    every = disk(tinyswallow(**{"checkpoint.keep_every_steps": 1000})).num_checkpoints
    # While that of step 12,000 is written: 10,500 and 11,500, and eleven multiples of 1,000.
    assert every == 1 + 2 + 11


def test_what_does_not_fit_gets_the_nearest_that_does() -> None:
    load = tinyswallow(
        **{"micro_batch_size": 8, "student.gradient_checkpointing": False, "teacher.tp_size": 8}
    )
    assert not fits(load, H100)
    nearest = nearest_that_fits(load, H100)
    assert nearest == {"student.gradient_checkpointing": True}
    changed = with_settings(load, nearest)
    assert changed is not None
    assert fits(changed, H100)
    assert nearest_that_fits(load, replace(H100, memory=1e9)) is None


def test_suggestions_leave_room_and_are_no_slower() -> None:
    load = tinyswallow()
    found = suggest(load, H100)
    settings = {one.setting: {"true": True, "false": False}.get(one.value) for one in found}
    settings = {
        name: int(one.value) if settings[name] is None else settings[name]
        for one in found
        for name in [one.setting]
    }
    changed = with_settings(load, settings)
    assert changed is not None
    assert leaves_room(changed, H100)
    assert duration(changed, H100).step_seconds <= duration(load, H100).step_seconds
    assert all(one.why for one in found)


def test_scaling_keeps_the_tokens() -> None:
    rows = scaling(tinyswallow(), H100)
    assert [row.load.world_size for row in rows] == [8, 16, 32, 64, 128, 256, 512, 1024]
    for row in rows:
        config = row.load.config
        whole = config.micro_batch_size * row.load.world_size
        assert config.global_batch_size % whole == 0
        assert config.total_steps * config.global_batch_size == pytest.approx(12_000 * 512)
        assert row.changed == (row.load.world_size > 256)
    per_gpu = [row.tokens_per_second / row.load.world_size for row in rows]
    pairs = itertools.pairwise(per_gpu)
    assert all(more < less * (1 + 1e-9) for less, more in pairs)
    assert [row.needed for row in rows] == sorted((row.needed for row in rows), reverse=True)


def write_run(folder: Path, num_ranks: int, device: str) -> None:
    """What a run's folder holds, after 3 steps at about 200,000 tokens/s."""
    folder.mkdir()
    config = load_config(CONFIGS / "tinyswallow-1.5b.yaml")
    (folder / "config.yaml").write_text(dump_config(config))
    start = {"event": "start", "num_ranks": num_ranks, "device": device}
    (folder / EVENTS_FILE).write_text(json.dumps(start) + "\n")
    steps = [{"tokens_per_second": speed, "peak_memory_gib": 20.0} for speed in (1e5, 2e5, 3e5)]
    (folder / METRICS_FILE).write_text("".join(json.dumps(s) + "\n" for s in steps) + '{"st')


def test_a_measured_run_tells_its_mfu(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 1024, "NVIDIA H100 80GB HBM3")
    found = read_measured(tmp_path / "run", 8)
    assert found.tokens_per_second == 2e5
    assert found.load.world_size == 1024
    lasts = duration(found.load, H100)
    flops = lasts.flops / found.load.step_tokens
    assert found.mfu(H100) == pytest.approx(2e5 * flops / (1024 * 989.4e12))
    # With the factor that follows, the plan for that run is what was measured.
    factor = lasts.mfu / found.mfu(H100)
    again = duration(found.load, H100, factor=factor)
    assert found.load.step_tokens / again.step_seconds == pytest.approx(2e5)


def test_a_run_on_cpus_says_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 2, "CPU")
    with pytest.raises(ValueError, match=r"--measured: .*run ran on CPUs"):
        read_measured(tmp_path / "run", 8)
    with pytest.raises(ValueError, match=r"--measured: .* is not a run's folder"):
        read_measured(tmp_path, 8)


@pytest.mark.parametrize("name", ["here/teacher", "/no/where", "a/b/c", "teacher"])
def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which takes half a minute where there is no network."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^teacher.model: there is no folder '{name}'$"):
        entries(name, None, "teacher.model")


KNOWN = {"quickstart": ["teacher.model=HuggingFaceTB/SmolLM2-135M-Instruct"]}
"""Whose models are made by a tool, and are those of the Hub."""


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_can_be_planned(path: Path) -> None:
    config = load_config(path, KNOWN.get(path.stem))
    student, teacher = run_shapes(config)
    planned = 0
    for size in (2, 8, 64, 256):
        try:
            check_world(config, size, min(size, 8))
        except ConfigError:
            continue
        load = Workload(config, student, teacher, size)
        assert fits(load, H100), f"{path.name} on {size} GPUs"
        assert duration(load, H100).step_seconds > 0
        assert disk(load).checkpoints > 0
        planned += 1
    assert planned

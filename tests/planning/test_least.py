"""Runs that no settings make fit: why, and what would."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from taidscale.commands.plan import main
from taidscale.models.shape import model_shape
from taidscale.planning.gpus import GIB, GPUS
from taidscale.planning.known_models import KNOWN_MODELS
from taidscale.planning.least import refusal, smallest
from taidscale.planning.memory import memory
from taidscale.planning.scaling import on_ranks
from taidscale.planning.suggestions import fits, nearest_that_fits
from taidscale.planning.tables import assumptions, overview
from taidscale.planning.teacher import shard
from taidscale.planning.workload import Workload
from tests.metrics.test_run_log import make_config
from tests.planning.test_plan import CONFIGS, tinyswallow

H100 = GPUS["h100-80g"]


def known(name: str) -> Any:
    return model_shape(AutoConfig.for_model(**KNOWN_MODELS[name]))


def with_teacher(name: str) -> Workload:
    """On one node."""
    return replace(tinyswallow(), teacher=known(name), world_size=8)


def test_a_plan_says_what_is_active() -> None:
    lines = overview(with_teacher("Qwen/Qwen3-30B-A3B"), H100)
    assert lines[2].startswith(
        "teacher   30,532,122,624 parameters, 3,353,032,704 of them active, bf16, over T = 8 ranks"
    )
    assert "active" not in "".join(overview(tinyswallow(), H100))


def test_a_plan_says_what_it_takes_experts_for() -> None:
    says = "experts are taken to compute as fast as dense layers, whatever the router does"
    assert says in assumptions(with_teacher("Qwen/Qwen3-30B-A3B"), H100, None)
    assert says not in assumptions(tinyswallow(), H100, None)


def test_deepseek_does_not_fit_a_node() -> None:
    load = with_teacher("deepseek-ai/DeepSeek-V3")
    assert nearest_that_fits(load, H100) is None
    best = smallest(load)
    needed, part = memory(best).needed / GIB, shard(best) / GIB
    # By hand: an eighth of 1,342 GB, of which routers, embedding and compressed queries are whole.
    assert 1342e9 / 8 < shard(best) < 1.03 * 1342e9 / 8
    assert refusal(load, H100) == (
        "nothing that can be set makes it fit: with teacher.tp_size 8, one sequence of 4,096 "
        "tokens a rank, gradient checkpointing and the optimizer on the host, a GPU needs "
        f"{needed:,.0f} of 79 GiB; the most is its teacher shard, {part:,.0f} GiB of a teacher of "
        "671.0 B parameters, of which each node holds a whole copy, so that more nodes do not "
        "help; it would fit with --gpu b200"
    )
    assert fits(best, GPUS["b200"])
    assert not fits(best, GPUS["h200"])
    many, _ = on_ranks(best, 1024)
    assert not fits(many, H100)


def test_more_gpus_where_they_help() -> None:
    load = replace(tinyswallow(), student=known("Qwen/Qwen2.5-72B"), world_size=8)
    assert not fits(smallest(load), GPUS["a100-40g"])
    says = refusal(load, GPUS["a100-40g"])
    assert "more nodes" not in says
    number = int(says.split("it would fit with --gpus ")[1].split()[0])
    enough, _ = on_ranks(smallest(load), number)
    too_few, _ = on_ranks(smallest(load), number // 2)
    assert fits(enough, GPUS["a100-40g"])
    assert not fits(too_few, GPUS["a100-40g"])


def test_a_run_without_a_teacher(tmp_path: Path) -> None:
    config = make_config(tmp_path, seq_len=4096, global_batch_size=8)
    says = refusal(Workload(config, known("Qwen/Qwen2.5-72B"), None, 8), GPUS["l4"])
    assert "teacher" not in says
    assert "with one sequence of 4,096 tokens a rank" in says


def test_the_command_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(CONFIGS / "tinyswallow-1.5b.yaml")
    teacher = "teacher.model=meta-llama/Llama-3.1-405B"
    assert main([config, teacher, "--gpus", "8"]) == 1
    says = capsys.readouterr().err
    assert says.startswith("does not fit on h100-80g: nothing that can be set makes it fit: with ")
    assert "405.9 B parameters, of which each node holds a whole copy" in says
    assert says.endswith("it would fit with --gpu h200 or --gpu b200\n")

"""A real run of an objective whose target and weights all move."""

from pathlib import Path

import pytest

from taidscale.commands.train import main
from tests.ranks import run_on_ranks
from tests.runs import make_run, read_lines


def test_schedules_reach_the_loss(tmp_path: Path) -> None:
    path = make_run(
        tmp_path,
        total_steps=4,
        teacher={"model": str(tmp_path / "teacher"), "tp_size": 2, "dtype": "fp32"},
        loss={
            "objective": "alpha_mixture",
            "alpha": 0.0,
            "t": {"schedule": "linear", "t_start": 0.2, "t_end": 1.0},
            "temperature": 2.0,
            "cross_entropy_weight": {"schedule": "linear", "start": 0.8, "end": 0.0},
        },
    )
    run_on_ranks(2, __name__, "train", {"path": path})
    steps = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [step["t"] for step in steps] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [step["cross_entropy_weight"] for step in steps] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    for step in steps:
        weight = step["cross_entropy_weight"]
        mixed = (1 - weight) * 4 * step["divergence"] + weight * step["next_token_loss"]
        assert step["loss"] == pytest.approx(mixed, rel=1e-6)
        assert step["mixture_kl"] == step["divergence"] > 0


def train(path: Path) -> None:
    assert main([str(path)]) == 0

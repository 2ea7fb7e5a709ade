"""What a setting says after a start from a checkpoint is what happens, or the start is refused."""

import json
import math
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import torch
from pydantic import BaseModel
from torch.optim.optimizer import register_optimizer_step_pre_hook

from taidscale.commands.train import main
from taidscale.config.schema import RunConfig
from taidscale.run.continuation import REFUSED
from tests.ranks import run_on_ranks
from tests.runs import make_run, read_lines
from tests.test_bad_input import expect_error

SECTIONS = {
    "the next step": "loss optimizer learning_rate",
    "whatever comes next": "checkpoint evaluation health wandb tensorboard profile "
    "wall_clock_hours",
    "how it is computed": "teacher.tp_size teacher.dtype teacher.attention micro_batch_size "
    "teacher.tokens_per_forward student.attention student.gradient_checkpointing "
    "teacher.load student.load",
    "converted": "zero precision",
    "what is learnt from": "data.streams data.phases data.attention seq_len global_batch_size "
    "teacher.model teacher.revision teacher.vocabulary",
    "how data come here": "data.num_workers data.prefetch_factor data.predownload_steps "
    "data.cache_limit data.download_retry data.download_timeout data.verify",
    "compared with the data": "student.tokenizer",
    "this run": "run_dir total_steps",
    "refused": "seed student.init data.shuffle data.shuffle_algo data.shuffle_block_size "
    "data.num_canonical_nodes",
}
"""Every setting, by what a start from a checkpoint makes of it."""


def leaves(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every setting of the schema, of all variants."""
    found = []
    for name, field in model.model_fields.items():
        inner = models_in(field.annotation)
        path = f"{prefix}{name}"
        found += [leaf for m in inner for leaf in leaves(m, f"{path}.")] if inner else [path]
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, list):
        return [model for inner in get_args(annotation) for model in models_in(inner)]
    return []


def test_every_setting_has_a_rule() -> None:
    rules = {section: what for what, text in SECTIONS.items() for section in text.split()}
    for setting in leaves(RunConfig):
        found = [s for s in rules if setting == s or setting.startswith(f"{s}.")]
        assert len(found) == 1, f"what does a start from a checkpoint make of {setting}?"
    assert set(REFUSED) == {section for section, what in rules.items() if what == "refused"}


def train(*arguments: str) -> None:
    run_on_ranks(1, "tests.runs", "train_quietly", {"arguments": list(arguments)})


def refused(*arguments: str, says: str) -> None:
    params = {"arguments": list(arguments), "pattern": says}
    run_on_ranks(1, "tests.test_bad_input", expect_error.__name__, params)


def column(run: Path, name: str) -> list[float]:
    return [line[name] for line in read_lines(run / "run" / "metrics.jsonl")]


def events(run: Path) -> list[str]:
    lines = [json.loads(line) for line in (run / "run" / "events.jsonl").open()]
    return [line["message"] for line in lines if line["event"] == "changed"]


# --- t --------------------------------------------------------------------------------


def test_a_changed_t_is_used_from_the_next_step_on(tmp_path: Path) -> None:
    config = str(make_run(tmp_path, evaluation=None, checkpoint={"every_steps": 2}))
    train(config, "loss.t=0.3", "total_steps=2")
    assert column(tmp_path, "t") == [0.3, 0.3]
    train(config, "loss.t=0.8", "total_steps=4")
    assert column(tmp_path, "t")[2:] == [0.8, 0.8]
    assert events(tmp_path) == [
        "loss.t.value was 0.3 and is 0.8 now",
        "total_steps was 2 and is 4 now",
        "t was 0.3000 and is 0.8000 now",
    ]
    train(config, "loss={objective: forward_kl}", "total_steps=6")
    assert column(tmp_path, "t")[4:] == [1.0, 1.0]
    train(config, "loss.t={schedule: linear, t_start: 0, t_end: 1}", "total_steps=8")
    assert column(tmp_path, "t")[6:] == [6 / 8, 7 / 8]
    train(config, "total_steps=10")  # adaptive: begins on its line, stores the signal, moves
    line = [0.4 + 0.6 * step / 10 for step in range(10)]
    assert column(tmp_path, "t")[8:] == [pytest.approx(line[8])] * 2
    train(config, "loss.t.t_end=0.7", "total_steps=11")
    assert column(tmp_path, "t")[10] == 0.7


# --- the optimizer --------------------------------------------------------------------


def run_and_watch(arguments: list[str], expected: list[dict[str, Any]], most: float) -> None:
    """On each rank: the command, whose every update has these settings and no larger gradient."""
    seen: list[dict[str, Any]] = []
    norms = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        assert isinstance(optimizer, torch.optim.AdamW)
        for group in optimizer.param_groups:
            seen.append({name: group[name] for name in ("lr", "betas", "eps", "weight_decay")})
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"]]
        norms.append(math.sqrt(sum(float(g.norm()) ** 2 for g in gradients if g is not None)))

    hook = register_optimizer_step_pre_hook(look)
    try:
        assert main(arguments) == 0
    finally:
        hook.remove()
    for one in seen:
        assert {**one, "betas": list(one["betas"])} in expected, seen
    assert {group["weight_decay"] for group in seen} == {g["weight_decay"] for g in expected}
    assert 0 < max(norms) <= most * 1.001


@pytest.mark.parametrize(
    ("stage", "precision"), [(0, "fp32"), *((s, p) for s in (1, 2, 3) for p in ("fp32", "bf16"))]
)
def test_settings_of_the_optimizer(tmp_path: Path, stage: int, precision: str) -> None:
    rate = {"schedule": "constant", "peak": 1e-3}
    settings: dict[str, Any] = {"precision": precision, "zero": {"stage": stage}}
    settings |= {"evaluation": None, "learning_rate": rate, "total_steps": 2}
    config = str(make_run(tmp_path, **settings))
    train(config)
    new = ["learning_rate.peak=0.002", "optimizer.beta1=0.5", "optimizer.beta2=0.6"]
    new += ["optimizer.eps=1e-6", "optimizer.weight_decay=0.4"]
    new += ["optimizer.gradient_clipping=0.01", "total_steps=4"]
    group = {"lr": 0.002, "betas": [0.5, 0.6], "eps": 1e-6}
    expected = [{**group, "weight_decay": 0.4}, {**group, "weight_decay": 0.0}]
    params = {"arguments": [config, *new], "expected": expected, "most": 0.01}
    run_on_ranks(1, __name__, run_and_watch.__name__, params)
    assert column(tmp_path, "learning_rate")[2:] == [0.002, 0.002]


def test_schedules_are_functions_of_the_step(tmp_path: Path) -> None:
    config = str(make_run(tmp_path, evaluation=None))
    train(config, "total_steps=4", "loss.cross_entropy_weight=0.5")
    weight = "loss.cross_entropy_weight={schedule: linear, start: 1, end: 0}"
    rate = "learning_rate={schedule: wsd, peak: 0.01, decay_steps: 4}"
    train(config, "total_steps=8", weight, rate)
    assert column(tmp_path, "cross_entropy_weight") == [*[0.5] * 4, 0.5, 0.375, 0.25, 0.125]
    assert column(tmp_path, "learning_rate")[4:] == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


# --- what is refused ------------------------------------------------------------------


def test_a_refused_start_leaves_no_trace(tmp_path: Path) -> None:
    config = str(make_run(tmp_path, total_steps=3))
    train(config)
    run = tmp_path / "run"
    kept = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", 3)
    refused(config, "seed=1", says="seed was 0 and is 1 now")
    refused(config, "data.num_canonical_nodes=4", says=r"nodes was 2 and is 4 now.*Put it back")
    refused(config, "student.init.model=" + str(tmp_path / "teacher"), says=r"student\.init\.model")
    refused(config, "total_steps=2", says="total_steps: 2 is less than the 3 steps")
    refused(config, "seq_len=8", says="seq_len 8")
    (stream,) = [f"[{{name: train, local: {tmp_path / 'held-out'}}}]"]
    streams = (f"data.streams={stream}", "evaluation.allow_training_data=true")
    refused(config, *streams, says="stream 'train' has other shards")
    assert kept == {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}

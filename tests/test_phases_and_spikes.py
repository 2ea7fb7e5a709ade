"""A planned change of the data is no spike of the loss, nor is a change of the loss itself."""

import json
import random
from pathlib import Path

from taidscale.corpus.in_memory import write_shards
from taidscale.data.tokenizer import load_tokenizer
from tests.ranks import run_on_ranks
from tests.runs import SEQ_LEN, make_run, read_lines

WATCHED = {"spike": {"window": 8, "deviations": 4.0, "roll_back": True}}


def test_annealing_with_roll_back(tmp_path: Path) -> None:
    path = make_run(
        tmp_path,
        total_steps=40,
        evaluation=None,
        loss={"objective": "cross_entropy"},
        learning_rate={"schedule": "constant", "peak": 0.02},
        checkpoint={"every_steps": 10},
        health=WATCHED,
        data={
            "streams": [
                {"local": str(tmp_path / "train"), "proportion": 1},
                {"local": str(tmp_path / "other"), "proportion": 0},
            ],
            "phases": [{"from_step": 30, "proportions": {"other": 1}}],
            "num_canonical_nodes": 2,
            "num_workers": 0,
        },
    )
    chance = random.Random(0)
    documents = ["".join(chance.choices("0123456789#$%&", k=120)) for _ in range(80)]
    tokenizer = load_tokenizer(str(tmp_path / "teacher"))
    write_shards(documents, tokenizer, SEQ_LEN, tmp_path / "other")
    run_on_ranks(1, "tests.runs", "train_quietly", {"arguments": [str(path)]})
    losses = [line["loss"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert losses[30] > losses[29] + 1, "the other data have another loss"
    kinds = [json.loads(line)["event"] for line in (tmp_path / "run" / "events.jsonl").open()]
    assert kinds == ["start", "finished"]


def test_another_loss_after_a_start(tmp_path: Path) -> None:
    path = str(make_run(tmp_path, evaluation=None, health=WATCHED, checkpoint={"every_steps": 16}))
    constant = "loss={objective: taid, t: 0.01}"
    run = {"module": "tests.runs", "name": "train_quietly"}
    run_on_ranks(1, **run, params={"arguments": [path, constant, "total_steps=16"]})
    other = "loss={objective: cross_entropy}"
    run_on_ranks(1, **run, params={"arguments": [path, other, "total_steps=20"]})
    losses = [line["loss"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert losses[16] > 10 * losses[15]
    kinds = [json.loads(line)["event"] for line in (tmp_path / "run" / "events.jsonl").open()]
    assert not {"spike", "rolled back"} & set(kinds)

"""Each start notes the operations of a token, by which the report tells the MFU."""

import json
from pathlib import Path

from tests.ranks import run_on_ranks
from tests.runs import SEQ_LEN, make_run

LAYERS = 2 * (4 * 16 * 16 + 3 * 16 * 32)
"""Products of two layers: queries, keys, values and their sums, and an MLP."""
ATTENTION = 2 * 4 * 16 * (SEQ_LEN + 1) / 2
"""Two layers, scores and values, 2 operations each, of 16 elements and the mean of 1 to S keys."""
TEACHER = 2 * (LAYERS + 264 * 16) + ATTENTION
STUDENT = 2 * (LAYERS + 260 * 16) + ATTENTION


def test_with_the_teacher_where_the_loss_needs_it(tmp_path: Path) -> None:
    path = str(make_run(tmp_path, evaluation=None, checkpoint={"every_steps": 1}))
    run = {"module": "tests.runs", "name": "train_quietly"}
    run_on_ranks(1, **run, params={"arguments": [path, "total_steps=2"]})
    alone = "loss={objective: cross_entropy}"
    run_on_ranks(1, **run, params={"arguments": [path, alone, "total_steps=3"]})
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").open()]
    noted = [line["flops_per_token"] for line in lines if line["event"] == "start"]
    assert noted == [3 * STUDENT + TEACHER, 3 * STUDENT]

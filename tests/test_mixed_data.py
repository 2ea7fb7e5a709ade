"""A real run on mixed streams: text and chats, weights, documents apart, a change of the mix."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from taidscale.corpus.documents import Reading
from taidscale.corpus.encoding import EncodingSettings
from taidscale.corpus.parts import Layout, Part, write_manifest, write_samples
from taidscale.corpus.prepare import prepare
from taidscale.data.counts import Counts
from taidscale.data.tokenizer import Tokenizer, fingerprint, load_tokenizer
from taidscale.engine.student import student_state_dict
from tests.ranks import run_on_ranks
from tests.runs import SEQ_LEN, make_run, read_lines

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
PHASES = [{"from_step": 4, "proportions": {"chats": 3, "train": 1}}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps: text alone, then three quarters of chats."""
    folder = tmp_path_factory.mktemp("mixed")
    path = make_run(
        folder,
        total_steps=6,
        checkpoint={"every_steps": 6},
        data={
            "streams": [
                {"local": str(folder / "train"), "proportion": 1},
                {"local": str(folder / "chats"), "proportion": 0},
            ],
            "phases": PHASES,
            "attention": "within_document",
            "num_canonical_nodes": 2,
            "num_workers": 1,
        },
        evaluation={
            "allow_training_data": True,  # what is asked is only whether all ranks find the same
            "data": {"text": str(folder / "held-out"), "talk": str(folder / "chats")},
            "every_steps": 6,
            "max_samples": 5,
        },
    )
    settings = json.loads((folder / "teacher" / "tokenizer_config.json").read_text())
    (folder / "teacher" / "tokenizer_config.json").write_text(
        json.dumps(settings | {"chat_template": TEMPLATE})
    )
    with (folder / "chats.jsonl").open("w") as file:
        for number in range(40):
            turns = [("user", "one"), ("assistant", "two"[: number % 4])]
            chat = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": chat}) + "\n")
    manifest = prepare(
        [str(folder / "chats.jsonl")],
        folder / "chats",
        Reading(chat_column="messages"),
        EncodingSettings(tokenizer=str(folder / "teacher"), loss_on="assistant"),
        seq_len=SEQ_LEN,
        packing="best_fit",
    )
    assert manifest.has_weights
    assert 0 < manifest.num_weighted_tokens < manifest.num_tokens
    return path


def test_the_same_training_on_any_number_of_ranks(run: Path) -> None:
    entries: list[list[dict[str, Any]]] = []
    evaluations: list[list[dict[str, Any]]] = []
    weights = []
    for world_size, tp_size in ((1, 1), (2, 2), (4, 2)):
        run_dir = run.parent / f"run-{world_size}"
        overrides = [
            f"run_dir={run_dir}",
            f"teacher.tp_size={tp_size}",
            f"micro_batch_size={4 // world_size}",
        ]
        run_on_ranks(
            world_size, "tests.runs", "train_quietly", {"arguments": [str(run), *overrides]}
        )
        entries.append(read_lines(run_dir / "metrics.jsonl"))
        evaluations.append(read_lines(run_dir / "evaluations.jsonl"))
        weights.append(student_state_dict(run_dir / "checkpoints" / "step-00000006"))
    for of_world, evaluated, parameters in zip(
        entries[1:], evaluations[1:], weights[1:], strict=True
    ):
        for one, other in zip(entries[0] + evaluations[0], of_world + evaluated, strict=True):
            assert one.keys() == other.keys()
            numbers = [name for name in one if name != "data"]
            for name in numbers:
                assert other[name] == pytest.approx(one[name], rel=2e-4, abs=2e-6), name
        for name, parameter in weights[0].items():
            torch.testing.assert_close(parameters[name], parameter, rtol=0, atol=2e-5)


def write_weighted(folder: Path, tokenizer: Tokenizer, weight: float) -> None:
    """Random documents, each of whose tokens has the same weight, or twice it."""
    chance = np.random.default_rng(0)
    ids = [chance.integers(0, 256, 12).astype(np.uint32) for _ in range(60)]
    weights = [np.float16(weight) * chance.integers(1, 3, 12).astype(np.float16) for _ in ids]
    layout = Layout(SEQ_LEN, "concatenate", 256, None, 257, has_weights=True)
    row = layout.row(ids, weights)
    samples, rest = layout.pack(row)
    shards = write_samples(folder / "00000", samples, layout)
    part = Part.of(row, samples, layout, Counts(documents=len(ids)), shards)
    write_manifest(
        folder,
        [part],
        layout=layout,
        tokenizer=tokenizer.name,
        fingerprint=fingerprint(tokenizer.vocabulary()),
        num_dropped_tokens=len(rest.tokens),
    )


def test_weights_count_relative_to_each_other(run: Path) -> None:
    tokenizer = load_tokenizer(str(run.parent / "teacher"))
    entries = []
    for name, weight in (("whole", 1.0), ("quarter", 0.25)):
        folder = run.parent / name
        write_weighted(folder, tokenizer, weight)
        stream = json.dumps({"name": "same", "local": str(folder)})
        data = [f"data.streams=[{stream}]", "data.phases=[]", "evaluation=null"]
        arguments = [str(run), f"run_dir={run.parent / f'run-{name}'}", *data]
        run_on_ranks(2, "tests.runs", "train_quietly", {"arguments": arguments})
        entries.append(read_lines(run.parent / f"run-{name}" / "metrics.jsonl"))
    assert entries[0] == entries[1]  # factors of a power of two change no bit
    assert 0.1 < entries[0][0]["loss"] < 10


def test_what_the_run_says_of_its_data(run: Path) -> None:
    run_dir = run.parent / "said"
    arguments = [str(run), f"run_dir={run_dir}", "global_batch_size=4"]
    run_on_ranks(1, "tests.runs", "train_quietly", {"arguments": arguments})
    entries = read_lines(run_dir / "metrics.jsonl")
    sizes = {
        name: json.loads((run.parent / name / "manifest.json").read_text())["num_samples"]
        for name in ("train", "chats")
    }
    expected = [(4, 0), (8, 0), (12, 0), (16, 0), (17, 3), (18, 6)]
    for entry, (text, chats) in zip(entries, expected, strict=True):
        assert entry["epoch/train"] == pytest.approx(text / sizes["train"])
        assert entry["epoch/chats"] == pytest.approx(chats / sizes["chats"])
    tokens = [entry["num_tokens"] for entry in entries]
    learnt = [after - before for before, after in zip([0, *tokens], tokens, strict=False)]
    assert max(learnt[4:]) < min(learnt[:4])  # of chats, only what the assistant says
    evaluated = [(e["step"], e["data"]) for e in read_lines(run_dir / "evaluations.jsonl")]
    assert evaluated == [(0, "talk"), (0, "text"), (6, "talk"), (6, "text")]

"""A complete tiny run on disk: models, shards and a configuration."""

import contextlib
import io
import json
import random
from pathlib import Path
from typing import Any

import yaml

from taidscale.commands.train import main
from taidscale.corpus.in_memory import write_shards
from taidscale.data.tokenizer import load_tokenizer
from tests.tiny_models import save_byte_tokenizer, save_tiny_model

SEQ_LEN = 16
VOCAB_SIZE = 257
"""256 bytes and the separator."""


def make_run(folder: Path, rare_documents: tuple[str, ...] = (), **settings: Any) -> Path:
    """Teacher, student, training and held-out shards, and `run.yaml`; its path.

    Args:
        folder: of everything.
        rare_documents: put among those to train on.
        settings: top-level settings that replace the default ones.
    """
    for role, rows, seed in (("teacher", 264, 0), ("student", 260, 1)):
        save_tiny_model(folder / role, "qwen2", vocab_size=rows, seed=seed)
        save_byte_tokenizer(folder / role)
    tokenizer = load_tokenizer(str(folder / "teacher"))
    words = ("teacher", "student", "tells", "what", "may", "come", "next", "and", "how", "likely")
    chance = random.Random(0)
    for name, count in (("train", 60), ("held-out", 3)):
        documents = [" ".join(chance.choices(words, k=20)) for _ in range(count)]
        documents[1:1] = rare_documents if name == "train" else ()
        write_shards(documents, tokenizer, SEQ_LEN, folder / name)
    config = {
        "run_dir": str(folder / "run"),
        "precision": "fp32",
        "total_steps": 10,
        "seq_len": SEQ_LEN,
        "micro_batch_size": 2,
        "global_batch_size": 8,
        "teacher": {"model": str(folder / "teacher"), "tp_size": 1, "dtype": "fp32"},
        "student": {"init": {"source": "pretrained", "model": str(folder / "student")}},
        "loss": {"objective": "taid", "t": {"schedule": "adaptive", "alpha": 0.05}},
        "learning_rate": {"schedule": "cosine", "peak": 1e-3, "warmup_steps": 2},
        "data": {
            "streams": [{"local": str(folder / "train")}],
            "num_canonical_nodes": 2,
            "num_workers": 1,
        },
        "evaluation": {"data": str(folder / "held-out"), "every_steps": 5},
        "checkpoint": {"every_steps": 5},
        **settings,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def train_quietly(arguments: list[str]) -> None:
    """On each rank: the command succeeds."""
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments) == 0


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Entries of a `.jsonl` file, without the timings."""
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {
            name: value
            for name, value in entry.items()
            if not name.endswith(("_seconds", "_gib", "_per_second"))
            and not name.startswith(("slowest_rank", "data_slow"))
        }
        for entry in entries
    ]

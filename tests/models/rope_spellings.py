"""A config.json's RoPE in the spelling of transformers 5, and the kinds of RoPE there are."""

import json
from pathlib import Path
from typing import Any

THETA = 500_000.0
LONGEST = 64
"""`max_position_embeddings` of the models."""
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 8.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "longrope": {
        "short_factor": [1.0, 2.0],
        "long_factor": [3.0, 5.0],
        "original_max_position_embeddings": 16,
    },
}
"""Parameters of each, for heads of 4."""


def older_entries(kind: str) -> dict[str, Any]:
    """As transformers 4 takes them: longrope's length stands beside `rope_scaling`."""
    parameters = dict(KINDS[kind])
    entries: dict[str, Any] = {"rope_theta": THETA}
    if kind == "longrope":
        entries |= {name: parameters.pop(name) for name in ("original_max_position_embeddings",)}
    if kind != "default":
        entries["rope_scaling"] = {"rope_type": kind, **parameters}
    return entries


def spell_as_5(folder: Path) -> None:
    """Rewrite a config.json that transformers 4 wrote."""
    path = folder / "config.json"
    entries = json.loads(path.read_text())
    theta = entries.pop("rope_theta")
    scaling = entries.pop("rope_scaling", None) or {"rope_type": "default"}
    beside = {
        name: entries.pop(name) for name in ("original_max_position_embeddings",) if name in entries
    }
    entries["rope_parameters"] = {"rope_theta": theta, **scaling, **beside}
    entries["transformers_version"] = "5.1.0"
    path.write_text(json.dumps(entries))

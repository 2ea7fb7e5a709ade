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


PARTIAL = ("glm", "glm4", "glm4_moe", "nemotron", "phi", "phi3", "stablelm")


def older_entries(kind: str, family: str) -> dict[str, Any]:
    """As transformers 4 takes them: longrope's length stands beside `rope_scaling`."""
    parameters = dict(KINDS[kind])
    entries: dict[str, Any] = {"rope_theta": THETA}
    if family in PARTIAL:
        entries["partial_rotary_factor"] = 1.0
    if family == "gpt_neox":
        entries = {"rotary_emb_base": THETA, "rotary_pct": 1.0}
    if kind == "longrope":
        entries |= {name: parameters.pop(name) for name in ("original_max_position_embeddings",)}
    if kind != "default":
        word = "type" if family in ("olmo", "olmo2", "phi3") else "rope_type"
        entries["rope_scaling"] = {word: kind, **parameters}
    return entries


def respell(folder: Path, kind: str, family: str) -> None:
    """Rewrite a config.json as the version of transformers that is not installed writes it."""
    path = folder / "config.json"
    entries = json.loads(path.read_text())
    if entries.pop("rope_parameters", None) is None:
        _spell_as_5(path, entries)
    else:
        path.write_text(json.dumps({**entries, **older_entries(kind, family)}))


def _spell_as_5(path: Path, entries: dict[str, Any]) -> None:
    theta = entries.pop("rope_theta")
    share = entries.pop("partial_rotary_factor", None)
    for name in ("rotary_emb_base", "rotary_pct"):
        entries.pop(name, None)
    scaling = entries.pop("rope_scaling", None) or {"rope_type": "default"}
    beside = {
        name: entries.pop(name) for name in ("original_max_position_embeddings",) if name in entries
    }
    if "type" in scaling:
        scaling["rope_type"] = scaling.pop("type")
    full = {"rope_theta": theta, **scaling, **beside}
    if share is not None:
        full["partial_rotary_factor"] = share
    sliding = {"rope_type": "default", "rope_theta": entries.pop("rope_local_base_freq", theta)}
    layered = entries["model_type"] in ("gemma3_text", "olmo3")
    entries["rope_parameters"] = (
        {"full_attention": full, "sliding_attention": sliding} if layered else full
    )
    entries["transformers_version"] = "5.1.0"
    path.write_text(json.dumps(entries))

"""Whatever a published config.json says, and whatever else it might: ours is transformers' model.

Each entry is changed, one at a time. Where that changes what transformers computes, it changes what
the teacher computes by the same, or is refused.
"""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM

from taidscale.config.schema import TeacherConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.runtime import start_ranks
from taidscale.losses.vocabulary import Vocabulary
from taidscale.models.families import read_model_config
from taidscale.models.installed import without_initialisation
from taidscale.parallel.grid import Grid
from taidscale.teachers.split import SplitTeacher
from tests.ranks import run_on_ranks
from tests.teachers.published import SMALL, published

IDS = torch.randint(3, SMALL["vocab_size"], (2, 24), generator=torch.Generator().manual_seed(1))
NOT_OF_THE_MODEL = frozenset(
    {
        *("architectures", "auto_map", "model_type", "torch_dtype", "use_cache", "vocab_size"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range"),
        # Of training alone; without effect in `eval`.
        *("attention_dropout", "embd_pdrop", "embedding_dropout", "resid_pdrop"),
        *("residual_dropout", "output_router_logits", "router_aux_loss_coef"),
    }
)
LEAST_CHANGED = 4
"""Entries of each model that must be seen to change something."""


@pytest.mark.parametrize("name", published())
def test_each_entry_counts_as_in_transformers(name: str, tmp_path: Path) -> None:
    run_on_ranks(1, __name__, "change_each", {"name": name, "folder": tmp_path})
    said = json.loads((tmp_path / "said.json").read_text())
    print(f"\n{name}: " + "; ".join(f"{what}: {', '.join(which)}" for what, which in said.items()))
    assert said["as in transformers"][0] == "as published"
    assert not said["wrong"]
    assert len(said["as in transformers"]) > LEAST_CHANGED


def change_each(name: str, folder: Path) -> None:
    grid = start_ranks(1, seed=0)
    entries = published()[name]
    before = _theirs(entries, folder / "model")
    assert before is not None
    said: dict[str, list[str]] = {
        kind: [] for kind in ("as in transformers", "no effect", "no model", "refused", "wrong")
    }
    for changed, new in [
        ("as published", entries),
        *sorted(_changes(entries), key=lambda change: change[0]),
    ]:
        theirs = _theirs(new, folder / "model")
        if theirs is None:
            kind = "no model"
        elif changed != "as published" and theirs.shape == before.shape and theirs.equal(before):
            kind = "no effect"
        else:
            kind = _compared(theirs, folder / "model", grid)
        said[kind].append(changed)
    (folder / "said.json").write_text(json.dumps(said))


def _changes(entries: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same entries with one of them changed, each in turn."""
    for name in sorted(entries.keys() - NOT_OF_THE_MODEL):
        if isinstance(value := entries[name], dict):
            for inner, old in value.items():
                yield f"{name}.{inner}", {**entries, name: {**value, inner: _another(inner, old)}}
        else:
            yield name, {**entries, name: _another(name, value)}


def _another(name: str, value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value * 2 or 2
        case float():
            return value * 0.5 or 0.5
        case str():
            return "gelu" if value != "gelu" else "silu"
        case [0 | 1, *_]:
            return [1 - item if item in (0, 1) else 2 * item for item in value]
        case list():
            return [item * 2 for item in value] or [0]
    return {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}.get(name, 4)


def _theirs(entries: dict[str, Any], folder: Path) -> torch.Tensor | None:
    """Logits by transformers alone, of random weights that are left in `folder`."""
    rest = {name: value for name, value in entries.items() if name != "model_type"}
    try:
        config = AutoConfig.for_model(entries["model_type"], **copy.deepcopy(rest))
        with without_initialisation():
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation="eager"
            ).eval()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                tensor.normal_(std=0.2 if tensor.ndim > 1 else 0.3, generator=generator)
                if "norm" in name and name.endswith("weight"):
                    tensor.add_(1.0)
                if name.endswith("e_score_correction_bias"):
                    tensor.add_(1.0 - tensor.min())  # below 0, versions of transformers differ
            model.tie_weights()
            logits: torch.Tensor = model(IDS).logits
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError):
        return None
    except (TypeError, ValueError, StrictDataclassError):  # the last one is of transformers 5
        return None
    (folder / "config.json").write_text(json.dumps(entries))
    return logits.flatten(0, 1)


def _compared(theirs: torch.Tensor, folder: Path, grid: Grid) -> str:
    try:
        config = read_model_config(folder, "teacher.model")
        settings = TeacherConfig(model=str(folder), dtype="fp32", attention="eager")
        vocabulary = Vocabulary(theirs.shape[1], 0, theirs.shape[1])
        teacher = SplitTeacher(settings, config, folder, vocabulary, grid)
    except ValueError:
        return "refused"
    signal = teacher(MicroBatch(IDS, IDS))
    ours = torch.empty_like(theirs)
    signal.write_logits(slice(None), ours)
    close = torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    return "as in transformers" if close else "wrong"

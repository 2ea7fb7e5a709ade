"""Small models of all families: written by one version of transformers, computed with by another.

Also a command, for the environment of the other version: `python -m tests.models.other_version
write FOLDER`, or `compute FOLDER FILE`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from taidscale.checkpoint.export import export_hugging_face
from taidscale.models.families import STUDENTS, read_model_config
from taidscale.models.load import check_weights, model_from_files
from taidscale.models.save import save_config
from taidscale.models.weights import find_weights
from tests.small_families import SMALL_MODELS, VOCABULARY, save_small
from tests.tiny_models import save_byte_tokenizer

SEQ_LEN = 24
"""More than the positions after which longrope of the small models changes."""


def write(folder: Path) -> None:
    """Save each model as transformers does, export each student, and keep their logits."""
    logits = {}
    for small in SMALL_MODELS:
        model = save_small(folder / small.slug / "saved", small)
        logits[small.slug] = _logits(model)
        if small.family in STUDENTS:
            student = folder / small.slug / "student"
            save_config(read_model_config(folder / small.slug / "saved", "m"), student)
            save_byte_tokenizer(student)
            export_hugging_face(
                {name: tensor.detach() for name, tensor in model.named_parameters()},
                student,
                folder / small.slug / "exported",
                dtype=torch.float32,
                model_card="",
                files={},
            )
    torch.save(logits, folder / "logits.pt")


def compute(folder: Path) -> dict[str, torch.Tensor]:
    """Logits of each saved and exported folder, read here, and of exports by transformers alone."""
    found = {}
    for place in sorted([*folder.glob("*/saved"), *folder.glob("*/exported")]):
        config = read_model_config(place, "teacher.model")
        weights = find_weights(place, "teacher.model")
        check_weights(config, weights, "teacher.model")
        model: Any = model_from_files(config, weights, torch.float32, "eager")
        found[f"{place.parent.name} {place.name}"] = _logits(model)
        if place.name == "exported":
            model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
            found[f"{place.parent.name} transformers"] = _logits(model)
            entries = json.loads((place / "config.json").read_text())
            assert "rope_parameters" not in entries, place
    return found


def _logits(model: Any) -> torch.Tensor:
    """[1, S, V], by the implementation of attention that all families have."""
    model.config._attn_implementation = "eager"
    ids = torch.arange(SEQ_LEN)[None] * 7 % VOCABULARY
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(ids).logits
    return logits


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", folder]:
            write(Path(folder))
        case ["compute", folder, file]:
            torch.save(compute(Path(folder)), file)

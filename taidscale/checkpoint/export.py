"""From a checkpoint's weights to a folder that `transformers` loads by itself."""

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from taidscale.data.tokenizer import load_tokenizer
from taidscale.durable import rename_folder
from taidscale.models.families import read_model_config
from taidscale.models.installed import without_initialisation
from taidscale.models.part_names import part_names
from taidscale.models.save import save_model
from taidscale.models.stored_names import stored_names

LINEAGE_FILE = "lineage.json"
"""In an exported folder: the runs that the student went through."""
PROBE_TOKENS = 64
"""Tokens of the two sequences on which the folder is compared with the checkpoint."""


@dataclass(frozen=True)
class ExportReport:
    """What the comparison found."""

    folder: Path
    num_parameters: int
    num_bytes: int
    largest_difference: float
    """Of any logit: the reloaded folder against the checkpoint's weights in the same type."""
    largest_rounding: float
    """Of any logit: the reloaded folder against the checkpoint's weights as they are."""


def export_hugging_face(
    weights: dict[str, torch.Tensor],
    student_folder: Path,
    out: Path,
    *,
    dtype: torch.dtype,
    model_card: str,
    files: dict[str, bytes],
    max_shard_size: str = "5GB",
) -> ExportReport:
    """Write sharded safetensors, config, tokenizer, generation settings and a model card.

    Everything is written aside, loaded again with `transformers` alone and compared; only
    then does it get its name.

    Args:
        weights: by Hugging Face name; tied ones may appear twice.
        student_folder: `config.json` and tokenizer of the student.
        out: must not exist, or be empty.
        dtype: type of the exported weights.
        model_card: text of `README.md`.
        files: that belong to it, such as pictures that it shows, by name.
        max_shard_size: of one weight file, as `save_pretrained` takes it.

    Raises:
        ValueError: if `out` is in use, `max_shard_size` is no size, the tokenizer is missing,
            weights are missing or left over, or the reloaded model differs.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already; choose another folder or remove it")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if not re.fullmatch(r"0*[1-9][0-9]*[KMGT]B", max_shard_size):
        raise ValueError(f"max_shard_size: {max_shard_size!r} is no size such as 500MB or 5GB")
    tokenizer = load_tokenizer(str(student_folder)).hf
    assert tokenizer is not None, "student folders hold Hugging Face tokenizers"
    as_trained = _probe(load_student(weights, student_folder, torch.float32))
    model = load_student(weights, student_folder, dtype)
    expected = _probe(model)
    save_model(model, partial, max_shard_size)
    tokenizer.save_pretrained(partial)
    generation = student_folder / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, partial / generation.name)
    (partial / "README.md").write_text(model_card, encoding="utf-8")
    for name, content in files.items():
        (partial / name).write_bytes(content)
    reloaded = _probe(AutoModelForCausalLM.from_pretrained(partial, dtype=dtype))
    difference = float((reloaded - expected).abs().max())
    if difference > 1e-3 * float(expected.abs().max()):
        raise ValueError(
            f"{partial} was written but gives other logits than the checkpoint (largest "
            f"difference {difference:.2e}); it was left for inspection and is not an export"
        )
    rename_folder(partial, out)
    return ExportReport(
        out,
        model.num_parameters(),
        sum(file.stat().st_size for file in out.glob("*.safetensors")),
        difference,
        float((reloaded - as_trained).abs().max()),
    )


def load_student(
    weights: dict[str, torch.Tensor], student_folder: Path, dtype: torch.dtype
) -> PreTrainedModel:
    """A checkpoint's student, on the CPU.

    It is built in `dtype`, not cast to it: a cast would round the RoPE frequencies too.

    Args:
        weights: by Hugging Face name; tied ones may appear twice.
        student_folder: with its `config.json`.
        dtype: of its weights.

    Raises:
        ValueError: if weights are missing or left over.
    """
    architecture = read_model_config(student_folder, "the run's student")
    architecture.dtype = None
    with without_initialisation():  # all are replaced
        model: PreTrainedModel = AutoModelForCausalLM.from_config(architecture, dtype=dtype)
    own = _own_names(weights, model)
    weights = {own[name]: tensor for name, tensor in weights.items()}
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"the checkpoint does not fit {student_folder / 'config.json'}: {error}"
        ) from None
    if architecture.tie_word_embeddings:
        head = part_names(architecture.model_type).head_weight
        missing = [name for name in missing if name != _own_names([head], model)[head]]
    model.tie_weights()  # transformers 5 has not done so without initialisation
    if missing or unexpected:
        raise ValueError(
            f"the checkpoint does not fit {student_folder / 'config.json'}: it lacks {missing}, "
            f"and has {unexpected} besides"
        )
    return model


def _own_names(names: Iterable[str], model: PreTrainedModel) -> dict[str, str]:
    """Each name of a checkpoint, and the installed transformers' own, whichever wrote it."""
    family = model.config.model_type

    def stored(name: str) -> str:
        (found,) = stored_names(name, (), family)  # students have no packed experts
        return found

    own = {stored(name): name for name in model.state_dict()}
    return {name: own.get(stored(name), name) for name in names}


def _probe(model: PreTrainedModel) -> torch.Tensor:
    """Logits of fixed sequences, float32."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (2, PROBE_TOKENS // 2), generator=generator)
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=ids).logits
    return logits.float()

"""Which exported models are compared, and how one is loaded."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from taidscale.data.tokenizer import Tokenizer, fingerprint, load_tokenizer
from taidscale.models.families import attention_for, model_folder, read_model_config
from taidscale.models.load import check_weights, model_from_files
from taidscale.models.weights import find_weights

Role = Literal["teacher", "before", "after"]
ROLES: tuple[Role, ...] = ("teacher", "before", "after")
TITLES = {"teacher": "teacher", "before": "student before", "after": "student after"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_WEIGHTS = ".safetensors"
_DESCRIPTIONS = (".json", ".jinja", ".model", ".txt")


@dataclass(frozen=True)
class Placement:
    """Where and in which numbers the models run."""

    device: str
    dtype: str
    """A key of `DTYPES`."""


@dataclass(frozen=True)
class Subject:
    """An exported model that is not loaded yet."""

    role: Role
    folder: Path

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The one in its folder."""
        return load_tokenizer(str(self.folder))

    @cached_property
    def vocabulary(self) -> str:
        """Equal for models whose ids mean the same tokens."""
        return fingerprint(self.tokenizer.vocabulary())

    @cached_property
    def num_parameters(self) -> int:
        """Numbers in its weights, tied ones once."""
        return find_weights(self.folder, str(self.folder)).count()

    @cached_property
    def identity(self) -> str:
        """Hash of the model: other files, or weights of another size or time, change it.

        Weights are told by size and time, because reading those of a big teacher takes minutes.
        """
        state = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            if path.suffix == _WEIGHTS:
                facts = path.stat()
                state.update(f"{path.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
            elif path.suffix in _DESCRIPTIONS:
                state.update(f"{path.name}\n".encode() + path.read_bytes())
        return state.hexdigest()


def find_subject(role: Role, name: str, setting: str) -> Subject:
    """A model by folder or Hub id, with all that can be said before it is loaded.

    Args:
        role: What it is in the comparison.
        name: Folder or Hub id.
        setting: Where the user wrote it, for the message.

    Raises:
        ValueError: There is none, its architecture is not understood, its tokenizer cannot be
            read or has more entries than the head rows.
    """
    subject = Subject(role, model_folder(name, None, setting))
    config = read_model_config(subject.folder, setting)
    check_weights(config, find_weights(subject.folder, setting), setting)
    if config.vocab_size < subject.tokenizer.size:
        raise ValueError(
            f"{setting}: the head of {subject.folder} has {config.vocab_size:,} rows and its "
            f"tokenizer {subject.tokenizer.size:,} entries; export the model with its own tokenizer"
        )
    return subject


def find_subjects(student: str, before: str | None, teacher: str | None) -> list[Subject]:
    """The models of a command line, the teacher first.

    Raises:
        ValueError: See `find_subject`.
    """
    found = [find_subject("after", student, "STUDENT")]
    if before is not None:
        found.insert(0, find_subject("before", before, "--before"))
    if teacher is not None:
        found.insert(0, find_subject("teacher", teacher, "--teacher"))
    return found


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Around what a device may have no room for; also a decorator.

    Raises:
        ValueError: It has none.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise ValueError(
            f"{reason}; use a smaller --batch-size or --window-tokens, or --dtype bf16"
        ) from None


@enough_memory()
def load_model(subject: Subject, placement: Placement) -> PreTrainedModel:
    """Its weights, on the device, for inference.

    Raises:
        ValueError: The device has no room for it, or weights are missing.
    """
    return load_folder(subject.folder, placement, TITLES[subject.role])


def load_folder(folder: Path, placement: Placement, title: str) -> PreTrainedModel:
    """The model of a folder, on the device, for inference.

    Raises:
        ValueError: Weights are missing or damaged.
    """
    config = read_model_config(folder, title)
    weights = find_weights(folder, title)
    dtype = DTYPES[placement.dtype]
    model = model_from_files(config, weights, dtype, attention_for(config, "sdpa"))
    end_as_told(model, folder)
    loaded: PreTrainedModel = model.eval().to(placement.device)
    return loaded


def end_as_told(model: PreTrainedModel, folder: Path) -> None:
    """Let the tokens end an answer that the folder's generation settings name."""
    if (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)


def choose_placement(device: str | None, dtype: str | None) -> Placement:
    """The user's wish; by default the GPU in bfloat16, or the CPU in float32.

    Raises:
        ValueError: There is no such device.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--device {chosen}: cannot be used ({reason}); use cpu") from None
    return Placement(chosen, dtype or ("fp32" if chosen == "cpu" else "bf16"))

"""Tiny exported models: a teacher, and students of the same and of another vocabulary."""

from pathlib import Path

from taidscale.assessment.comparison import Models
from taidscale.assessment.subjects import Placement, Role, Subject, find_subject
from tests.tiny_models import save_byte_tokenizer, save_tiny_model

ON_CPU = Placement("cpu", "fp32")


def save_exported(
    folder: Path, *, seed: int, extra: tuple[str, ...] = (), family: str = "llama"
) -> Path:
    """A random model with a byte tokenizer; its head is padded."""
    save_tiny_model(folder, family, vocab_size=264, seed=seed, max_position_embeddings=256)
    save_byte_tokenizer(folder, extra)
    return folder


def subject_of(role: Role, folder: Path) -> Subject:
    return find_subject(role, str(folder), role)


def models_on_cpu() -> Models:
    return Models(ON_CPU)

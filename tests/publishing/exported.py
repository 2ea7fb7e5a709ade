"""A folder as the export leaves it."""

from pathlib import Path

from tests.tiny_models import save_byte_tokenizer, save_tiny_model

CARD = """---
license: apache-2.0
base_model: [org/student, org/teacher]
tags: [distillation]
---

# Small

Written by a person.
"""


def make_exported(folder: Path) -> Path:
    """Weights in several files, of which some are sent in parts and some are not."""
    save_tiny_model(folder, "llama", vocab_size=600, hidden_size=32, tied=False)
    save_byte_tokenizer(folder)
    (folder / "README.md").write_text(CARD)
    return folder

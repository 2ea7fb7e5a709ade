"""What several tests need."""

import os
from pathlib import Path

import pytest
import torch

# Loaded models, not threads, are what the tests exercise; ranks share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported


@pytest.fixture(scope="session")
def material() -> Path:
    """Folder of real models, tokenizers and corpora; a user's machine may lack it."""
    default = Path(__file__).parents[2] / "shared" / "material"
    folder = Path(os.environ.get("TAIDSCALE_MATERIAL", default))
    if not folder.is_dir():
        pytest.skip(f"no test material at {folder}; set TAIDSCALE_MATERIAL")
    return folder

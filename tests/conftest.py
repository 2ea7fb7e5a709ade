"""What several tests need, and what a machine could not test."""

import os
import signal
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.material.make import made_material
from tests.tiny_tokenizer import save_tiny_tokenizer

# Loaded models, not threads, are what the tests exercise; ranks share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A shell has what it starts in the background ignore it, and so would what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

REAL_MATERIAL = Path(
    os.environ.get("TAIDSCALE_MATERIAL", Path(__file__).parents[2] / "shared" / "material")
)


STARTERS = {
    "tests.ranks",
    "tests.runs",
    "tests.launching",
    "tests.held_run",
    "tests.kill_at_random",
    "tests.tools.commands",
}
"""Modules whose functions start processes: trainings and commands, which import torch first."""
KEPT = {"losses", "parallel"}
"""Folders whose ranks compute a little, and are forked where all is imported."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what starts processes, or needs models that are trained first.

    It goes by what a module imports, so that its other tests are slow too.
    """
    for item in items:
        assert isinstance(item, pytest.Function)
        starters = set() if item.path.parent.name in KEPT else STARTERS
        if {"material", "real_material"} & set(item.fixturenames) or any(
            value is subprocess or getattr(value, "__module__", None) in starters
            for value in vars(item.module).values()
        ):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `save_tiny_tokenizer`."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tiny_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def material() -> Path:
    """Folder of models, tokenizers and corpora: real ones, or what is made in their place."""
    return REAL_MATERIAL if REAL_MATERIAL.is_dir() else made_material()


@pytest.fixture(scope="session")
def real_material() -> Path:
    """The same for what only real ones have; a user's machine may lack them."""
    if not REAL_MATERIAL.is_dir():
        pytest.skip(f"no real models and texts at {REAL_MATERIAL}; set TAIDSCALE_MATERIAL")
    return REAL_MATERIAL


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was not tested, by reason: the tests' names are in no other list."""
    names = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        names[reason.removeprefix("Skipped: ")].append(report.nodeid)
    if not names and REAL_MATERIAL.is_dir():
        return
    terminalreporter.section("not tested on this machine")
    for reason, tests in names.items():
        terminalreporter.write_line(f"{reason}:")
        for test in tests:
            terminalreporter.write_line(f"  {test}")
    if not REAL_MATERIAL.is_dir():
        terminalreporter.write_line(
            f"real models, tokenizers and texts: there is no {REAL_MATERIAL} (TAIDSCALE_MATERIAL); "
            "small ones made from Python's documentation stood in for them"
        )

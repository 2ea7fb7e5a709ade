"""Weights that one rank reads for others: the same model, read once, and errors on every rank."""

from pathlib import Path
from typing import Any

import pytest
import torch

from taidscale.data.batches import MicroBatch
from taidscale.engine.runtime import start_ranks
from taidscale.models.shared_weights import SharedWeights
from taidscale.models.weights import WeightFiles, find_weights
from taidscale.parallel.grid import Grid
from taidscale.teachers.split import SplitTeacher
from tests.ranks import run_on_ranks
from tests.teachers.test_split import ROWS, VOCABULARY, make_teacher
from tests.tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_tiny_model(folder, "qwen3_moe", vocab_size=ROWS, tied=False)
    return folder


@pytest.mark.parametrize(("world_size", "tp_size"), [(2, 1), (4, 2)])
def test_the_same_teacher(model: Path, world_size: int, tp_size: int) -> None:
    run_on_ranks(world_size, __name__, "compare", {"model": model, "tp_size": tp_size})


def compare(model: Path, tp_size: int) -> None:
    """On each rank: equal to the bit, and only the first copy opens the files."""
    grid = start_ranks(tp_size, seed=0)
    each, _ = _teacher(model, grid, "each")
    received, num_bytes = _teacher(model, grid, "broadcast")
    ids = torch.arange(8)[None] * 7 % VOCABULARY
    batch = MicroBatch(ids, ids)
    assert torch.equal(each(batch).hidden, received(batch).hidden)
    assert each.weight_hashes() == received.weight_hashes()
    assert (num_bytes > 0) == (grid.data.index == 0)


def _teacher(model: Path, grid: Grid, load: str) -> tuple[SplitTeacher, int]:
    """It, and the bytes that this rank read for it."""
    right, read = WeightFiles.read, [0]

    def counting(self: WeightFiles, *args: Any) -> torch.Tensor:
        tensor = right(self, *args)
        read[0] += tensor.nbytes
        return tensor

    WeightFiles.read = counting  # type: ignore[method-assign]
    teacher = make_teacher(model, grid, load=load)
    WeightFiles.read = right  # type: ignore[method-assign]
    return teacher, read[0]


def test_what_one_rank_cannot_read(model: Path) -> None:
    run_on_ranks(2, __name__, "fail_together", {"model": model})


def fail_together(model: Path) -> None:
    grid = start_ranks(1, seed=0)
    files = find_weights(model, "teacher.model")
    shared = SharedWeights(files, None, grid.device)
    right = files.read("lm_head.weight", slice(3, 9))
    assert torch.equal(shared.read("lm_head.weight", slice(3, 9)), right)
    if grid.rank == 0:
        files.file_of["lm_head.weight"] = "lost.safetensors"
    wanted = "lost.safetensors: cannot read" if grid.rank == 0 else "'lm_head.weight': rank 0, wh"
    with pytest.raises(ValueError, match=wanted):
        shared.read("lm_head.weight")

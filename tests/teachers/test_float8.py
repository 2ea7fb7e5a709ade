"""A teacher of 8-bit floats, split over ranks, against the same weights dequantised by hand."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from taidscale.engine.runtime import start_ranks
from taidscale.parallel.grid import Grid
from tests.models.float8_files import FORMS, save_both
from tests.ranks import run_on_ranks
from tests.teachers.test_split import ROWS, VOCABULARY, make_teacher, unlabelled
from tests.tiny_models import save_tiny_model

SEQ_LEN = 12


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each form of scales two folders, tied for every other; blocks end in no slice's end."""
    folder = tmp_path_factory.mktemp("teachers")
    for number, form in enumerate(FORMS):
        save_tiny_model(
            folder / form,
            "qwen3",
            vocab_size=ROWS,
            hidden_size=48,
            tied=number % 2 == 0,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=8,
        )
        save_both(folder / form, form, lambda name: "norm" not in name)
    return folder


@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_equals_the_dequantised_teacher(teachers: Path, tp_size: int) -> None:
    run_on_ranks(tp_size, __name__, "compare", {"teachers": teachers, "tp_size": tp_size})


def compare(teachers: Path, tp_size: int) -> None:
    """On each rank: its part of the logits, and the loss of all ranks."""
    grid = start_ranks(tp_size, seed=0)
    ids = torch.arange(grid.world_size * SEQ_LEN).view(grid.world_size, SEQ_LEN) * 7 % VOCABULARY
    for form in FORMS:
        found = logits_of(teachers / f"{form}-float8", grid, ids)
        right = logits_of(teachers / f"{form}-by-hand", grid, ids)
        assert torch.equal(found, right), form
        whole = AutoModelForCausalLM.from_pretrained(
            teachers / f"{form}-by-hand", dtype=torch.float32
        )
        with torch.no_grad():
            dense = whole.eval()(ids).logits[..., :VOCABULARY].flatten(0, 1)
        losses = [loss(logits, ids) for logits in (gathered(found, grid), dense)]
        assert abs(losses[0] - losses[1]) < 1e-6 * losses[1], (form, losses)
        for dtype in ("bf16", "fp8"):
            both = [
                logits_of(teachers / f"{form}-{kind}", grid, ids, dtype=dtype)
                for kind in ("float8", "by-hand")
            ]
            assert torch.equal(*both), (form, dtype)


def logits_of(folder: Path, grid: Grid, ids: torch.Tensor, dtype: str = "fp32") -> torch.Tensor:
    """This rank's columns of all ranks' tokens."""
    teacher = make_teacher(folder, grid, dtype=dtype)
    tokens = teacher(unlabelled(ids[grid.rank : grid.rank + 1]))
    return tokens.hidden @ tokens.head_rows.t()


def gathered(logits: torch.Tensor, grid: Grid) -> torch.Tensor:
    return torch.cat(grid.gather(logits), dim=1)


def loss(logits: torch.Tensor, ids: torch.Tensor) -> float:
    """Mean over the next tokens, in float64."""
    rows = logits.double().view(*ids.shape, -1)[:, :-1].flatten(0, 1)
    return float(cross_entropy(rows, ids[:, 1:].flatten()))

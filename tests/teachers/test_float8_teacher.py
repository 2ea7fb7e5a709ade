"""A teacher that computes in 8 bits: its arithmetic, its error, and what it holds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import ScalingType, scaled_mm

from taidscale.data.batches import MicroBatch
from taidscale.engine.runtime import start_ranks
from taidscale.models.families import read_model_config
from taidscale.models.trunk import hidden_states
from taidscale.teachers.float8 import Float8Linear, quantised, scaled_product
from taidscale.teachers.trunk import whole_trunk
from tests.ranks import run_on_ranks
from tests.small_families import SMALL_MODELS, VOCABULARY, save_small
from tests.teachers.test_families import make_teacher, typical

FAMILIES = ("qwen3", "phi3", "gpt_neox", "qwen3_moe", "qwen2_moe", "deepseek_v3")
SMALL = [next(small for small in SMALL_MODELS if small.family == family) for family in FAMILIES]


def test_values_are_rounded_to_four_bits() -> None:
    """One that leads and three that follow: no value is off by more than a sixteenth of itself."""
    values = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    values[7] = 0.0
    rounded, factors = quantised(values)
    back = rounded.float() * factors
    largest = values.abs() >= values.abs().amax(1, keepdim=True) / 2**12
    assert ((back - values).abs() <= values.abs() / 16)[largest].all()
    assert torch.equal(back[7], values[7])
    assert torch.isfinite(back).all()
    again, _ = quantised(back)
    assert torch.equal(again.float(), rounded.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_computes_the_same(dtype: torch.dtype) -> None:
    """Where there is one, which on a CPU has no place but here."""
    chance = torch.Generator().manual_seed(0)
    inputs = torch.randn(9, 64, generator=chance).to(dtype)
    weight, factors = quantised(torch.randn(48, 64, generator=chance))
    rounded, of_tokens = quantised(inputs)
    by_kernel = scaled_mm(
        rounded,
        weight.t(),
        of_tokens,
        ScalingType.RowWise,
        factors.t(),
        ScalingType.RowWise,
        output_dtype=dtype,
    )
    found = scaled_product(inputs, weight, factors)
    exact = (rounded.double() * of_tokens.double()) @ (weight.double() * factors.double()).t()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(by_kernel.double(), exact, rtol=2 * eps, atol=1e-5)
    torch.testing.assert_close(found.double(), exact, rtol=2 * eps, atol=1e-5)


def test_a_layer_with_a_bias() -> None:
    layer = nn.Linear(32, 20)
    inputs = torch.randn(2, 3, 32)
    expected = scaled_product(inputs.view(6, 32), *quantised(layer.weight)) + layer.bias
    found = Float8Linear(layer, None)(inputs)
    torch.testing.assert_close(found, expected.view(2, 3, 20))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float8")
    for small in SMALL:
        save_small(folder / small.slug, small)
    return folder


@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_trunks(models: Path, tp_size: int) -> None:
    run_on_ranks(tp_size, __name__, "compare", {"models": models, "tp_size": tp_size})


def compare(models: Path, tp_size: int) -> None:
    """On each rank: hidden states against transformers' layers in 8 bits, and in bf16."""
    grid = start_ranks(tp_size, seed=0)
    chance = torch.Generator().manual_seed(2)
    ids = torch.randint(VOCABULARY, (tp_size, 24), generator=chance)
    own = MicroBatch(ids[grid.tp_rank][None], ids[grid.tp_rank][None])
    for small in SMALL:
        folder = models / small.slug
        config = read_model_config(folder, "teacher.model")
        teacher = make_teacher(folder, grid, "sdpa", "fp8")
        found = teacher(own).hidden.float()
        whole: Any = {
            kind: hidden_states(whole_trunk(config, folder, kind, grid.device).model, ids).float()
            for kind in ("fp32", "bf16", "fp8")
        }
        error = typical(found, whole["fp32"])
        as_whole = typical(whole["fp8"], whole["fp32"])
        rounding = typical(whole["bf16"], whole["fp32"])
        print(f"{small.slug} T={tp_size}: {error:.3f}, whole {as_whole:.3f}, bf16 {rounding:.4f}")
        assert rounding < error < 1.5 * as_whole, small.name
        check_size(teacher, make_teacher(folder, grid, "sdpa", "bf16"))


def check_size(teacher: Any, in_bf16: Any) -> None:
    """Half of the layers' bytes, but for factors, biases, norms and routers."""
    both = [
        sum(p.numel() * p.element_size() for p in one._trunk.model.layers.parameters())
        for one in (teacher, in_bf16)
    ]
    assert 0.5 < both[0] / both[1] < 0.68

"""Triton's kernels against the plain arithmetic: on a GPU, or in Triton's interpreter."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from taidscale.losses.fused_head import fused_head
from taidscale.losses.head_settings import HeadSettings
from taidscale.losses.objective import CROSS_ENTROPY, Objective
from taidscale.losses.objectives.taid import Taid
from taidscale.losses.signal import HeadSignal
from taidscale.losses.vocabulary import Vocabulary
from tests.losses.dense import DIVERGENCES
from tests.ranks import on_ranks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROOT = Path(__file__).parents[2]

WITH_KERNELS = [d for d in DIVERGENCES.values() if d.has_kernel]


@dataclass(frozen=True)
class Case:
    """Sizes that fit no block; `scale` of the hidden states."""

    objective: Objective
    vocabulary: int = 61
    tokens: int = 7
    chunk_tokens: int = 5
    scale: float = 1.0
    softcap: float | None = None
    with_teacher: bool = True
    dtype: torch.dtype = torch.float32


CASES = [
    *(Case(Objective(divergence)) for divergence in WITH_KERNELS),
    *(Case(Objective(divergence, 2.5, 0.3), vocabulary=2500) for divergence in WITH_KERNELS),
    Case(CROSS_ENTROPY),
    Case(CROSS_ENTROPY, with_teacher=False, vocabulary=4099),
    Case(Objective(Taid(0.4)), vocabulary=4097, tokens=3),
    Case(Objective(Taid(0.4)), vocabulary=4, tokens=1),
    Case(Objective(Taid(0.4), 0.5, 0.5), softcap=3.0, scale=4.0),
    Case(Objective(Taid(0.7)), vocabulary=3000, scale=100.0),
    # These have no kernel of their own: moments by kernel, the rest plainly.
    Case(Objective(DIVERGENCES["adaptive kl"], 1.5, 0.2)),
    Case(Objective(DIVERGENCES["decoupled kl"])),
]


def test_there_are_kernels() -> None:
    assert len(WITH_KERNELS) == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@on_ranks(1)
def test_equal_the_plain_path(dtype: torch.dtype) -> None:
    compare(dtype)


@pytest.mark.skipif(DEVICE == "cuda", reason="gloo cannot gather in place on a GPU")
@on_ranks(2)
def test_equal_the_plain_path_on_two_ranks() -> None:
    compare(torch.float32)


def compare(dtype: torch.dtype) -> None:
    torch.use_deterministic_algorithms(True)  # fills new buffers with NaN: padding must not count
    # In bf16 both round the same float32 gradient, but the interpreter towards zero.
    bound = 1e-5 if dtype == torch.float32 else 2**-6
    for case in CASES:
        plain, kernel = (run(replace(case, dtype=dtype), choice) for choice in (False, True))
        assert plain.keys() == kernel.keys()
        for name, expected in plain.items():
            error = (kernel[name] - expected).abs().max() / expected.abs().max().clamp(min=1e-9)
            limit = 1e-5 if name.startswith("Σ") else bound * max(1.0, case.scale)
            assert error < limit, (case, name, float(error))


def run(case: Case, with_kernels: bool) -> dict[str, torch.Tensor]:
    """Loss, gradients and sums of one rank."""
    rank, size = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int, scale: float) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator) * scale
        return values.to(DEVICE, case.dtype)

    vocabulary = Vocabulary.split(case.vocabulary, rank, size)
    hidden = normal(case.tokens * size, 10, scale=case.scale).chunk(size)[rank].clone()
    weight = normal(case.vocabulary, 10, scale=0.3).requires_grad_()
    teacher_hidden = normal(case.tokens * size, 14, scale=case.scale)
    teacher_rows = normal(case.vocabulary, 14, scale=0.3)[vocabulary.rows]
    labels = torch.randint(0, case.vocabulary, (case.tokens * size,), generator=generator)
    labels[1:3] = -100
    settings = HeadSettings(
        vocabulary,
        dist.group.WORLD,
        chunk_tokens=case.chunk_tokens,
        softcap=case.softcap,
        kernels=with_kernels,
    )
    total, sums = fused_head(
        hidden.requires_grad_(),
        weight,
        labels.to(DEVICE).chunk(size)[rank],
        HeadSignal(teacher_hidden, teacher_rows) if case.with_teacher else None,
        case.objective,
        settings,
    )
    total.backward()
    found = {"total": total, "d_hidden": hidden.grad, "d_head": weight.grad}
    found |= {f"Σ{name}": value for name, value in sums.items()}
    return {name: value.detach().double().cpu() for name, value in found.items()}


def test_compile_for_gpus_that_are_not_here() -> None:
    """The compiler needs no GPU: for A100 and H100 no kernel spills registers or loads narrowly."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.losses.compile_kernels"],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lines = result.stdout.splitlines()
    assert len(lines) == 2 * 2 * 19
    assert all(" 0 bytes spill stores" in line for line in lines), result.stdout
    assert not any(" 0 wide" in line for line in lines), result.stdout

"""One measurement of `loss.py`: a random problem, an implementation, its check and its figures.

Shapes: N tokens, V vocabulary entries, Ds and Dt the hidden sizes of student and teacher.
"""

import ctypes
import math
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

sys.path.insert(0, str(Path(__file__).parents[1]))

import rivals
from rivals import Problem

from taidscale.config.loss import LossConfig
from taidscale.losses.fused_head import fused_head
from taidscale.losses.head_settings import HeadSettings
from taidscale.losses.objective import Objective
from taidscale.losses.signal import HeadSignal
from taidscale.losses.vocabulary import Vocabulary

IMPLEMENTATIONS = ("gemms", "reference", "dense", "liger", "liger_triton", "plain", "ours")
"""In this order they are measured and drawn."""

SMALL = {"tokens": 64, "vocabulary": 1000, "hidden": 48, "teacher_hidden": 80, "chunk_tokens": 24}
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """What is measured."""

    objective: str
    implementation: str
    tp: int
    tokens: int
    vocabulary: int
    hidden: int
    teacher_hidden: int
    dtype: str
    device: str
    chunk_tokens: int | None
    logits_mib: int
    repeats: int
    taid: Path | None = None

    def settings(self, rank: int) -> HeadSettings:
        """How ours computes."""
        return HeadSettings(
            Vocabulary.split(self.vocabulary, rank, self.tp),
            dist.group.WORLD,
            logits_bytes=self.logits_mib * 2**20,
            chunk_tokens=self.chunk_tokens,
            kernels=False if self.implementation == "plain" else None,
        )

    def problem(self) -> Problem:
        """Random numbers, the same on each rank; logits have a standard deviation of 2."""
        generator = torch.Generator(self.device).manual_seed(0)

        def normal(rows: int, size: int, scale: float = 1.0) -> torch.Tensor:
            values = torch.randn(rows, size, generator=generator, device=self.device)
            return values.mul_(scale).to(getattr(torch, self.dtype))

        return Problem(
            normal(self.tokens, self.hidden).requires_grad_(),
            normal(self.vocabulary, self.hidden, 2 / self.hidden**0.5).requires_grad_(),
            normal(self.tokens, self.teacher_hidden),
            normal(self.vocabulary, self.teacher_hidden, 2 / self.teacher_hidden**0.5),
            torch.randint(self.vocabulary, (self.tokens,), generator=generator, device=self.device),
        )


@dataclass(frozen=True)
class Measured:
    """What came out."""

    seconds: float
    busy_seconds: float
    """Of the process, what it does not spend waiting for other programs or ranks; NaN on a GPU."""
    peak_mib: float
    loss: float
    """Of a token."""
    error: float
    """The largest relative difference from dense of a small problem."""

    @property
    def cost(self) -> float:
        """Seconds, with as little of other programs in them as can be."""
        return self.seconds if math.isnan(self.busy_seconds) else self.busy_seconds


def mean_loss(case: Case, problem: Problem, rank: int) -> torch.Tensor:
    """Loss of a token; `problem` is this rank's share of it."""
    match case.implementation:
        case "reference":
            assert case.taid is not None
            return rivals.reference(problem, case.objective, case.taid)
        case "dense":
            return rivals.dense(problem, case.objective)
        case "liger":
            return rivals.liger(problem, case.objective)
        case "liger_triton":
            return rivals.liger_triton(problem, case.objective)
    config = TypeAdapter(LossConfig).validate_python({"objective": case.objective})
    total, _ = fused_head(
        problem.hidden,
        problem.weight,
        problem.labels,
        HeadSignal(problem.teacher_hidden, problem.teacher_weight),
        Objective.at(config, t=rivals.T_VALUE, cross_entropy_weight=0.0),
        case.settings(rank),
    )
    return total / case.tokens


@torch.no_grad()
def gemms(case: Case, problem: Problem) -> None:
    """Logits of both models, and two products as if the student's were their gradient."""
    num_bytes = problem.hidden.itemsize + problem.teacher_hidden.itemsize
    chunking = case.settings(0).chunking(problem.hidden.device)
    size = chunking.chunk_size(case.tokens, num_bytes)
    buffers = [problem.hidden.new_empty(size, case.vocabulary) for _ in range(2)]
    d_hidden, d_weight = torch.empty_like(problem.hidden), torch.zeros_like(problem.weight)
    for start in range(0, case.tokens, size):
        tokens = slice(start, min(start + size, case.tokens))
        student, teacher = (buffer[: tokens.stop - start] for buffer in buffers)
        torch.mm(problem.hidden[tokens], problem.weight.t(), out=student)
        torch.mm(problem.teacher_hidden[tokens], problem.teacher_weight.t(), out=teacher)
        torch.mm(student, problem.weight, out=d_hidden[tokens])
        d_weight.addmm_(student.t(), problem.hidden[tokens])
    problem.hidden.grad, problem.weight.grad = d_hidden, d_weight


def step(case: Case, problem: Problem, rank: int) -> torch.Tensor:
    """Forward and backward; returns the loss of a token."""
    problem.hidden.grad = problem.weight.grad = None
    if case.implementation == "gemms":
        gemms(case, problem)
        return torch.tensor(math.nan)
    loss = mean_loss(case, problem, rank)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def share(problem: Problem, case: Case, rank: int) -> Problem:
    """One rank's tokens, and its rows of the teacher's head."""
    rows = case.settings(rank).vocabulary.rows
    return replace(
        problem,
        hidden=problem.hidden.detach().chunk(case.tp)[rank].clone().requires_grad_(),
        labels=problem.labels.chunk(case.tp)[rank],
        teacher_weight=problem.teacher_weight[rows].clone(),
    )


def gradients(case: Case, problem: Problem, rank: int = 0) -> dict[str, torch.Tensor]:
    """Loss of a token and gradients, by name."""
    loss = step(case, problem, rank)
    assert problem.hidden.grad is not None
    assert problem.weight.grad is not None
    return {"loss": loss, "d_hidden": problem.hidden.grad, "d_weight": problem.weight.grad}


def differences(case: Case, rank: int) -> dict[str, float]:
    """Relative ones of a small problem from dense in float32, of what can be compared."""
    small = replace(case, **SMALL)  # type: ignore[arg-type]
    whole, rows = small.problem(), small.settings(rank).vocabulary.rows
    found = gradients(small, share(whole, small, rank), rank)
    exact = gradients(replace(small, implementation="dense"), whole.to(torch.float32))
    exact["d_hidden"] = exact["d_hidden"].chunk(case.tp)[rank]
    found["d_weight"], exact["d_weight"] = found["d_weight"][rows], exact["d_weight"][rows]
    names = tuple(found)
    if case.implementation == "reference":
        names = rivals.comparable(case.objective)
    return {name: relative(found[name], exact[name]) for name in names}


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference by that of what is expected."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def measure(case: Case, rank: int = 0) -> Measured:
    """Check, and measure; a process group of `case.tp` ranks is up."""
    error = math.nan
    if case.implementation == "gemms":
        small = replace(case, **SMALL)  # type: ignore[arg-type]
        step(small, small.problem(), rank)  # the first calls cost more
    else:
        found = differences(replace(case, dtype="float32"), rank)
        if not all(value < TOLERANCE for value in found.values()):
            raise ValueError(f"{case.implementation} differs from dense: {found}")
        error = max(differences(case, rank).values(), default=math.nan)
    problem = share(case.problem(), case, rank)
    if case.device == "cuda":
        torch.compiler.reset()  # of the small problems' shapes
        for _ in range(3):
            step(case, problem, rank)
    dist.barrier()
    runs = [timed(case, problem, rank) for _ in range(case.repeats)]
    return Measured(*(statistics.median(figure) for figure in zip(*runs, strict=True)), error)


def timed(case: Case, problem: Problem, rank: int) -> tuple[float, float, float, float]:
    """The first four figures of `Measured`, of one step."""
    problem.hidden.grad = problem.weight.grad = None
    if case.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        loss = step(case, problem, rank)
        end.record()
        torch.cuda.synchronize()
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
        return start.elapsed_time(end) / 1000, math.nan, peak, float(loss)
    ctypes.CDLL(None).malloc_trim(0)  # else freed memory of the heap counts as held
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
    resident, started, busy = resident_mib("VmRSS"), time.perf_counter(), time.process_time()
    loss = step(case, problem, rank)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    return seconds, busy, resident_mib("VmHWM") - resident, float(loss)


def resident_mib(entry: str) -> float:
    """Resident memory of this process: now (VmRSS) or the largest (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {entry} in /proc/self/status")

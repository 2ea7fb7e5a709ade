"""Peak memory and time of the fused head against the dense computation of the same loss.

python benchmarks/loss_memory.py [--tokens 4096] [--vocabulary 151936] [--tp 2] [--dense-tokens N]

Each measurement is a process (or T of them) of its own on the CPU, in float32, one thread a
rank: TAID at t = 0.5, forward and backward. Memory is the peak resident memory of a rank
beyond what it held before the loss: inputs and weights are not counted. The dense computation
needs many [N, V] tensors; with `--dense-tokens` it is measured on fewer tokens.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

sys.path.insert(0, str(Path(__file__).parents[1]))

from taidscale.losses.fused_head import fused_head
from taidscale.losses.inputs import HeadSettings, TeacherTokens
from taidscale.losses.objective import Objective
from taidscale.losses.objectives.taid import Taid
from taidscale.losses.vocabulary import Vocabulary

STUDENT_SIZE, TEACHER_SIZE, T_VALUE = 896, 1536, 0.5
STATUS = Path("/proc/self/status")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096, help="N, tokens of the tp_group")
    parser.add_argument("--vocabulary", type=int, default=151_936, help="V")
    parser.add_argument("--tp", type=int, default=2, help="T, ranks that share the vocabulary")
    parser.add_argument("--chunk-tokens", type=int, default=256, help="C")
    parser.add_argument("--dense-tokens", type=int, help="N of the dense computation")
    options = parser.parse_args()
    dense_tokens = options.dense_tokens or options.tokens
    one = options.tokens * options.vocabulary * 4 / 2**20
    print(
        f"V = {options.vocabulary:,}, hidden sizes {STUDENT_SIZE} and {TEACHER_SIZE}, float32, "
        f"C = {options.chunk_tokens}; one [N, V] tensor of N = {options.tokens:,} is {one:,.0f} MiB"
    )
    print(f"{'':12s}{'T':>3s}{'N':>8s}{'peak MiB a rank':>18s}{'of [N, V]':>12s}{'seconds':>10s}")
    losses = {}
    for name, tp, tokens in (
        ("fused", options.tp, options.tokens),
        ("fused", 1, options.tokens),
        ("fused", 1, dense_tokens),
        ("dense", 1, dense_tokens),
    ):
        if (name, tp, tokens) in losses:
            continue
        peak, seconds, loss = measure(name, tp, tokens, options.vocabulary, options.chunk_tokens)
        losses[name, tp, tokens] = loss
        share = peak / (tokens * options.vocabulary * 4 / 2**20)
        print(f"{name:12s}{tp:3d}{tokens:8,d}{peak:18,.0f}{share:12.3f}{seconds:10.1f}", flush=True)
    dense, fused = losses["dense", 1, dense_tokens], losses["fused", 1, dense_tokens]
    print(f"loss of a token: dense {dense:.7f}, fused {fused:.7f}")


def measure(name: str, tp: int, tokens: int, vocabulary: int, chunk: int) -> tuple[float, ...]:
    """Largest peak of any rank in MiB, seconds, and loss per token."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (tp, folder, name, tokens, vocabulary, chunk, results)
        multiprocessing.spawn(run_rank, arguments, nprocs=tp)
        found = [results.get() for _ in range(tp)]
    return max(peak for peak, _, _ in found), max(s for _, s, _ in found), found[0][2]


def run_rank(
    rank: int, tp: int, folder: str, name: str, tokens: int, vocabulary: int, chunk: int, out: Any
) -> None:
    """One rank: make inputs, run the loss and its backward, report the peak."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/s", rank=rank, world_size=tp)
    generator = torch.Generator().manual_seed(0)

    def normal(rows: int, size: int) -> torch.Tensor:
        return torch.randn(rows, size, generator=generator)

    hidden, teacher_hidden = normal(tokens, STUDENT_SIZE), normal(tokens, TEACHER_SIZE)
    labels = torch.randint(0, vocabulary, (tokens,), generator=generator)
    weight = (normal(vocabulary, STUDENT_SIZE) / STUDENT_SIZE**0.5).requires_grad_()
    shard = Vocabulary.split(vocabulary, rank, tp)
    teacher_rows = normal(vocabulary, TEACHER_SIZE)[shard.rows] / TEACHER_SIZE**0.5
    own = hidden.chunk(tp)[rank].clone().requires_grad_()
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
    before, started = resident("VmRSS"), time.perf_counter()
    if name == "fused":
        total, _ = fused_head(
            own,
            weight,
            labels.chunk(tp)[rank],
            TeacherTokens(teacher_hidden, teacher_rows),
            Objective(Taid(T_VALUE)),
            HeadSettings(shard, dist.group.WORLD, chunk_tokens=chunk),
        )
    else:
        total = dense_loss(own, weight, teacher_hidden, teacher_rows)
    total.backward()
    seconds = time.perf_counter() - started
    out.put((resident("VmHWM") - before, seconds, float(total.detach()) / tokens))
    dist.destroy_process_group()


def dense_loss(
    hidden: torch.Tensor, weight: torch.Tensor, teacher_hidden: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """Full logits and autograd, as one would write it down."""
    student_logits = hidden @ weight.t()
    with torch.no_grad():
        teacher_logits = teacher_hidden @ rows.t()
    mixed = (1 - T_VALUE) * student_logits.detach() + T_VALUE * teacher_logits
    p, log_p = mixed.softmax(-1), mixed.log_softmax(-1)
    return (p * (log_p - student_logits.log_softmax(-1))).sum()


def resident(entry: str) -> float:
    """Resident memory in MiB: now (VmRSS) or the largest (VmHWM)."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(entry):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {entry} in {STATUS}")


if __name__ == "__main__":
    main()

"""Time and peak memory of distillation losses, one implementation beside the other.

python benchmarks/loss.py [--objectives taid ... | all] [--tokens N ...] [--vocabulary V ...]
    [--tp 1 2] [--device cpu | cuda] [--taid CHECKOUT] [--out FOLDER]

Measured is what lies between the last hidden states of both models and the gradients of the
student's hidden states and head, for N tokens with a label each:

- ours: `fused_head`, on `--tp` ranks (on the CPU); plain: on a GPU, without Triton's kernels;
- dense: full logits and autograd; reference: the TAID repository's losses of full logits;
- liger, liger_triton: Liger-Kernel's chunked loss, and its fused head with a Triton kernel;
- gemms: the matrix products of the heads alone, in the chunks of ours: the least there is to do.

Before it is measured, each must agree with dense on a small problem in float32; `error` is the
largest relative difference of loss and gradients from that, in the measured type. On the CPU a
measurement is a process (or T of them) of its own with one thread, and memory the peak
resident memory beyond what it held before; on a GPU it is what was allocated beyond that. So
inputs and weights are not counted, gradients are. `busy` is the processor time of the slowest
rank, which other programs disturb less than `seconds`, and what `/gemms` compares on the CPU.
"""

import argparse
import gc
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import rivals
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from loss_case import IMPLEMENTATIONS, Case, Measured, gradients, measure, relative
from loss_report import Row, draw, print_table, write_csv

DEFAULTS = {
    "tokens": ([2048], [8192]),
    "vocabulary": ([151_936], [128_256, 151_665, 151_936]),
    "hidden": (896, 2048),
    "teacher_hidden": (1536, 4096),
    "dtype": ("float32", "bfloat16"),
    "logits_mib": (160, 1024),
    "repeats": (1, 10),
}
"""Of the options, on the CPU and on a GPU."""


def main() -> None:
    """Measure, and print the table."""
    options = parse()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        taid = fetch(options, Path(folder), failures)
        print(setting(options, taid), flush=True)
        if options.device == "cuda":
            with process_group(Path(folder), 0, 1):
                compare_kernels(failures)
                rows = run_all(options, taid, failures)
        else:
            rows = run_all(options, taid, failures)
    print_table(rows)
    if options.out is not None and rows:
        options.out.mkdir(parents=True, exist_ok=True)
        write_csv(rows, options.out / "loss.csv")
        draw(rows, options.out / "loss.png")
    if failures:
        sys.exit("\n".join(["failed:", *failures]))


def parse() -> argparse.Namespace:
    """The options, with the device's defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--tokens", type=int, nargs="+", help="N; 2048, on a GPU 8192")
    add("--vocabulary", type=int, nargs="+", help="V; 151936, on a GPU also 128256, 151665")
    add("--hidden", type=int, help="Ds; 896, on a GPU 2048")
    add("--teacher-hidden", type=int, help="Dt; 1536, on a GPU 4096")
    add("--objectives", nargs="+", default=["taid", "jensen_shannon"], help="or all")
    add("--implementations", nargs="+", choices=IMPLEMENTATIONS, default=IMPLEMENTATIONS)
    add("--tp", type=int, nargs="+", default=[1], help="T, ranks of ours, on the CPU")
    add("--device", choices=["cpu", "cuda"], help="a GPU where there is one")
    add("--dtype", choices=["float32", "bfloat16"], help="float32, on a GPU bfloat16")
    add("--chunk-tokens", type=int, help="C of ours and gemms")
    add("--logits-mib", type=int, help="budget that decides C; 160, on a GPU 1024")
    add("--repeats", type=int, help="of which the median counts; 1, on a GPU 10")
    add("--taid", type=Path, help="checkout or bare repository; cloned by default")
    add("--out", type=Path, help="folder for loss.csv and loss.png")
    options = parser.parse_args()
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    for name, (cpu, cuda) in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, cuda if options.device == "cuda" else cpu)
    if options.objectives == ["all"]:
        options.objectives = list(rivals.DENSE)
    if unknown := set(options.objectives) - set(rivals.DENSE):
        parser.error(f"unknown objectives {sorted(unknown)}; choose from {list(rivals.DENSE)}")
    if options.device == "cuda" and options.tp != [1]:
        parser.error(f"--tp {options.tp}: more than one rank is measured on the CPU alone")
    return options


def fetch(options: argparse.Namespace, folder: Path, failures: list[str]) -> Path | None:
    """The others' code; an implementation that cannot be had is left out."""
    taid = None
    needed = {case.implementation.split("_")[0] for case in plan(options, None)}
    for name in sorted(needed & {"reference", "liger"}):
        try:
            if name == "reference":
                taid = rivals.fetch_taid(options.taid, folder / "TAID")
            else:
                rivals.fetch_liger()
        except (OSError, subprocess.CalledProcessError) as error:
            failures.append(f"{name} could not be fetched: {error}")
            rest = [other for other in options.implementations if not other.startswith(name)]
            options.implementations = rest
    return taid


def setting(options: argparse.Namespace, taid: Path | None) -> str:
    """What the figures depend on."""
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU, one thread a rank"
    lines = [
        f"{device}, torch {torch.__version__}, {options.dtype}, hidden sizes {options.hidden} and "
        f"{options.teacher_hidden}, logits of ours in {options.logits_mib} MiB"
        + (f", C = {options.chunk_tokens}" if options.chunk_tokens else "")
    ]
    for size in options.vocabulary:
        for tokens in options.tokens:
            mib = tokens * size * getattr(torch, options.dtype).itemsize / 2**20
            lines.append(f"one [N, V] tensor of N = {tokens:,}, V = {size:,} is {mib:,.0f} MiB")
    if taid is not None:
        git = ["git", "-C", str(taid), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
        lines.append(f"reference: {rivals.TAID_URL} at {commit or 'an unknown commit'}")
    return "\n".join(lines)


def plan(options: argparse.Namespace, taid: Path | None) -> Iterator[Case]:
    """All that is to be measured."""
    for vocabulary in options.vocabulary:
        for tokens in options.tokens:
            base = Case(
                objective="",
                implementation="gemms",
                tp=1,
                tokens=tokens,
                vocabulary=vocabulary,
                hidden=options.hidden,
                teacher_hidden=options.teacher_hidden,
                dtype=options.dtype,
                device=options.device,
                chunk_tokens=options.chunk_tokens,
                logits_mib=options.logits_mib,
                repeats=options.repeats,
                taid=taid,
            )
            for objective in ["", *options.objectives]:
                for name in options.implementations:
                    if offers(name, objective, options.device):
                        for tp in options.tp if name == "ours" else [1]:
                            yield replace(base, objective=objective, implementation=name, tp=tp)


def offers(implementation: str, objective: str, device: str) -> bool:
    """Whether an implementation has an objective; the matrix products are those of all."""
    match implementation:
        case "gemms":
            return not objective
        case "reference":
            return objective in rivals.REFERENCE
        case "liger":
            return objective in rivals.LIGER_BETAS
        case "liger_triton":
            return device == "cuda" and objective in rivals.LIGER_BETAS
        case "plain":
            return device == "cuda" and bool(objective)
    return bool(objective)


def run_all(options: argparse.Namespace, taid: Path | None, failures: list[str]) -> list[Row]:
    """One after the other; what fails is told and left out, for a GPU's time is dear."""
    rows = []
    for case in plan(options, taid):
        name = f"{case.objective or 'all'} {case.implementation} T={case.tp} V={case.vocabulary:,}"
        name += f" N={case.tokens:,}"
        try:
            measured = measure(case) if case.device == "cuda" else measure_apart(case)
        except torch.OutOfMemoryError:
            print(f"{name}: out of memory", flush=True)
        except Exception as error:  # whatever others' code raises
            failures.append(f"{name}: {error}")
            print(f"{name}: failed, {type(error).__name__}", flush=True)
        else:
            rows.append(Row(case, measured))
            print(f"{name}: {measured.seconds:.3f} s, {measured.peak_mib:,.0f} MiB", flush=True)
        if case.device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
    return rows


def measure_apart(case: Case) -> Measured:
    """In processes of its own: the slowest and the largest of its ranks."""
    results: Any = multiprocessing.get_context("spawn").Queue()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(run_rank, (case, Path(folder), results), nprocs=case.tp)
        found = [results.get() for _ in range(case.tp)]
    return Measured(*(max(figure) for figure in zip(*map(astuple, found), strict=True)))


def run_rank(rank: int, case: Case, folder: Path, results: Any) -> None:
    """One rank of a measurement."""
    torch.set_num_threads(1)
    with process_group(folder, rank, case.tp):
        results.put(measure(case, rank))


@contextmanager
def process_group(folder: Path, rank: int, size: int) -> Iterator[None]:
    """The group that `fused_head` is given."""
    url = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=url, rank=rank, world_size=size)
    yield
    dist.destroy_process_group()


def compare_kernels(failures: list[str]) -> None:
    """Triton's kernels against the plain arithmetic, on a GPU."""
    print(f"\n{'kernels against plain':25s}{'loss':>10s}{'d_hidden':>10s}{'d_weight':>10s}")
    for dtype, tolerance in (("float32", 1e-4), ("bfloat16", 1e-2)):
        for objective in rivals.DENSE:
            case = Case(objective, "ours", 1, 500, 32_003, 512, 768, dtype, "cuda", 192, 1024, 1)
            ours, plain = (
                gradients(replace(case, implementation=name), case.problem())
                for name in ("ours", "plain")
            )
            found = {name: relative(ours[name], plain[name]) for name in ours}
            print(f"{objective:16s}{dtype:9s}" + "".join(f"{x:10.1e}" for x in found.values()))
            if not all(value < tolerance for value in found.values()):
                failures.append(f"kernels differ from plain: {objective} {dtype} {found}")


if __name__ == "__main__":
    main()

"""What is installed on a host, and whether its GPU computes as it should."""

import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

LIBRARIES = ("torch", "deepspeed", "transformers", "mosaicml-streaming", "numpy", "triton")


def installed_versions(device: torch.device) -> dict[str, str]:
    """Of all that must be equal on all nodes."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    if device.type == "cuda":
        found["CUDA"] = str(torch.version.cuda)
        nccl: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
        found["NCCL"] = ".".join(map(str, nccl))
        found["driver"] = _nvidia_smi("driver_version", device) or "unknown"
    return found


def matrix_flops(device: torch.device, size: int) -> float:
    """Floating-point operations per second of a product of two matrices, [size, size] each.

    Their entries are -1, 0 and 1, three of four 0, so that every sum is an integer that bf16
    holds, and the result is exact on any device that computes right.

    Raises:
        ArithmeticError: if the result is wrong.
    """
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 8, (2, size, size), generator=generator, dtype=torch.int8).to(device)
    a, b = (signs.eq(0).int() - signs.eq(1).int()).to(
        torch.bfloat16 if device.type == "cuda" else torch.float32
    )
    product = a @ b
    seconds = min(seconds_of(lambda: torch.matmul(a, b, out=product), device) for _ in range(5))
    # Freivalds: a wrong product is right for a random vector with probability 1/2 at most.
    vectors = torch.randint(0, 2, (size, 8), generator=generator).to(device, torch.float64)
    wrong = product.double() @ vectors != a.double() @ (b.double() @ vectors)
    if wrong.any():
        raise ArithmeticError(f"{int(wrong.any(1).sum())} of {size} rows of a product are wrong")
    return 2 * size**3 / seconds


def device_problems(device: torch.device) -> list[str]:
    """What the GPU says of itself."""
    if device.type != "cuda":
        return []
    problems = []
    free, total = torch.cuda.mem_get_info(device)
    if free < 0.9 * total:
        problems.append(
            f"GPU {device.index}: {(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB are in "
            "use by others: find them with nvidia-smi, and end them"
        )
    errors = _nvidia_smi("ecc.errors.uncorrected.volatile.total", device)
    if errors is not None and errors.isdigit() and int(errors) > 0:
        problems.append(
            f"GPU {device.index}: {errors} uncorrected memory errors since it was started: leave "
            "the node out, or reset the GPU"
        )
    return problems


def _nvidia_smi(query: str, device: torch.device) -> str | None:
    """One value of this GPU, as text; None if it cannot be had."""
    # Its own number is another one wherever CUDA_VISIBLE_DEVICES hides some.
    name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", f"--id={name}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def device_name(device: torch.device) -> str:
    """As its maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def available_memory() -> int:
    """Bytes that programs of this host can still take."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/meminfo has no MemAvailable")


def seconds_of(act: Callable[[], object], device: torch.device) -> float:
    """How long something takes on the device."""
    _wait_for(device)
    start = time.perf_counter()
    act()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""What GPUs can do, by name; figures of the vendors' data sheets."""

import difflib
from dataclasses import dataclass

GB, GIB, TERA = 1e9, 2**30, 1e12


@dataclass(frozen=True)
class Gpu:
    """One GPU and its share of the links of its node."""

    name: str
    flops: float
    """Dense bf16 FLOP/s at best, without sparsity."""
    memory: float
    """Bytes that a process can have."""
    memory_bandwidth: float
    """Bytes/s."""
    nvlink: float
    """Bytes/s to the other GPUs of the node, one direction; PCIe where there is no NVLink."""
    network: float
    """Bytes/s to other nodes, one direction: one adapter a GPU in common clusters."""
    per_node: int = 8
    has_float8: bool = True
    """Whether it multiplies floats of 8 bits, twice as fast as bf16; from Ada and Hopper on."""


_ROWS = (
    # name, TFLOP/s, GiB, memory TB/s, GB/s inside the node, GB/s across nodes
    ("h100-80g", 989.4, 79.1, 3.35, 450, 50),  # H100 SXM5; NDR 400 Gbit/s
    ("h100-pcie", 756.0, 79.1, 2.0, 64, 25),  # PCIe 5, no NVLink bridge
    ("h200", 989.4, 139.8, 4.8, 450, 50),
    ("h20", 148.0, 95.0, 4.0, 450, 50),
    ("b200", 2250.0, 178.0, 8.0, 900, 50),
    ("a100-80g", 312.0, 79.1, 2.039, 300, 25),  # SXM4; HDR 200 Gbit/s
    ("a100-40g", 312.0, 39.4, 1.555, 300, 25),
    ("l40s", 362.05, 44.5, 0.864, 32, 12.5),  # PCIe 4
    ("l4", 121.0, 22.5, 0.3, 32, 12.5),
    ("a10g", 70.0, 22.0, 0.6, 32, 12.5),
    ("rtx-4090", 165.2, 23.5, 1.008, 32, 12.5),
)
_AMPERE = ("a100-80g", "a100-40g", "a10g")
GPUS = {
    name: Gpu(
        *(name, tflops * TERA, gib * GIB, tb * TERA, inside * GB, across * GB),
        has_float8=name not in _AMPERE,
    )
    for name, tflops, gib, tb, inside, across in _ROWS
}
"""By name. Memory is what CUDA reports as total, a little less than what is sold."""


def find_gpu(name: str) -> Gpu:
    """One of the known.

    Raises:
        ValueError: naming them all, and the nearest.
    """
    if name in GPUS:
        return GPUS[name]
    near = difflib.get_close_matches(name.lower(), GPUS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
        f"--gpu: {name!r} is not known; {hint}known are {', '.join(GPUS)}; any other needs all of "
        "--gpu-tflops --gpu-memory --gpu-bandwidth --gpu-nvlink --gpu-network"
    )

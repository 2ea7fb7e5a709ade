"""Compile every kernel, for GPUs that need not be here, and print what the assembler says."""

import itertools
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from taidscale.losses import kernel_code, kernels

LOGITS = ("*bf16", "*fp32")
CAPABILITIES = (80, 90)
TERMS = (
    "reverse_kl",
    "jensen_shannon",
    "skew_forward_kl",
    "skew_reverse_kl",
    "total_variation",
)


def main() -> None:
    """Every kernel with every choice that changes its code."""
    sources: list[tuple[Any, dict[str, Any]]] = [
        (kernel_code.moments, {"WITH_TEACHER": True, "WITH_MIXTURE": True, "AT_ONE": True}),
        (kernel_code.moments, {"WITH_TEACHER": True, "WITH_MIXTURE": True, "AT_ONE": False}),
        (kernel_code.moments, {"WITH_TEACHER": True, "WITH_MIXTURE": False, "AT_ONE": True}),
        (kernel_code.moments, {"WITH_TEACHER": True, "WITH_MIXTURE": False, "AT_ONE": False}),
        (kernel_code.moments, {"WITH_TEACHER": False, "WITH_MIXTURE": False, "AT_ONE": True}),
        *((kernel_code.term_sums, {"TERMS": getattr(kernel_code, name)}) for name in TERMS),
        *(gradient(getattr(kernel_code, name), mixed=True) for name in TERMS),
        gradient(None, interpolated=True),
        gradient(None, interpolated=True, mixed=True),
        gradient(kernel_code.reverse_kl),
        gradient(None, mixed=True),
    ]
    for (kernel, constants), logits, capability in itertools.product(sources, LOGITS, CAPABILITIES):
        report = assemble(kernel, constants, logits, capability)
        print(f"sm_{capability} {logits} {kernel.__name__}: {report}")


def gradient(
    terms: Any, *, interpolated: bool = False, mixed: bool = False
) -> tuple[Any, dict[str, Any]]:
    """The gradient's kernel with its choices."""
    choices = {"TERMS": terms, "WITH_INTERPOLATION": interpolated, "WITH_CROSS_ENTROPY": mixed}
    return kernel_code.gradient, choices


def assemble(kernel: Any, constants: dict[str, Any], logits: str, capability: int) -> str:
    """What the assembler says of spills and registers."""
    constants = {"BLOCK": kernels.MOST_COLUMNS, **constants}
    signature = {name: type_of(name, logits) for name in kernel.arg_names}
    # What a launch finds out: tensors are aligned, and the stride is a multiple of 64.
    aligned = [n for n, kind in signature.items() if kind.startswith("*")] + ["stride"]
    attributes = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": 8})
    backend = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    assembler = next(path for path in backend.iterdir() if path.name.startswith("ptxas"))
    chip = f"sm_{capability}a" if capability >= 90 else f"sm_{capability}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(compiled.asm["ptx"])
        command = [assembler, "-v", f"--gpu-name={chip}", file, "-o", Path(folder) / "kernel"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.findall(r"\d+ bytes spill stores|Used \d+ registers", said)
    wide = len(re.findall(r"ld\.global\.v4|st\.global\.v4", compiled.asm["ptx"]))
    return ", ".join([*found, f"{wide} wide loads and stores"])


def type_of(name: str, logits: str) -> str:
    """Triton's name for the type of a kernel's argument."""
    match name:
        case "student" | "teacher":
            return logits
        case "labels":
            return "*i64"
        case "out" | "factors" | "normalisers" | "statistics":
            return "*fp32"
        case "num_tokens" | "num_columns" | "stride":
            return "i32"
        case _:
            return "constexpr" if name.isupper() else "fp32"


if __name__ == "__main__":
    main()

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
INTEGERS = ("num_tokens", "num_columns")


def main() -> None:
    """Every kernel with every choice that changes its code."""
    sources: list[tuple[Any, dict[str, Any]]] = [
        (kernel_code.moments, {"WITH_TEACHER": True, "WITH_MIXTURE": True, "AT_ONE": True}),
        (kernel_code.moments, {"WITH_TEACHER": True, "WITH_MIXTURE": True, "AT_ONE": False}),
        (kernel_code.moments, {"WITH_TEACHER": False, "WITH_MIXTURE": False, "AT_ONE": True}),
        *((kernel_code.term_sums, {"TERMS": getattr(kernel_code, name)}) for name in TERMS),
        *(
            (
                kernel_code.gradient,
                {"TERMS": getattr(kernel_code, name), "WITH_INTERPOLATION": False},
            )
            for name in TERMS[:4]
        ),
        (kernel_code.gradient, {"TERMS": kernel_code.interpolation, "WITH_INTERPOLATION": True}),
        (kernel_code.gradient, {"TERMS": None, "WITH_INTERPOLATION": False}),
    ]
    for (kernel, constants), logits, capability in itertools.product(sources, LOGITS, CAPABILITIES):
        report = assemble(kernel, constants, logits, capability)
        print(f"sm_{capability} {logits} {kernel.__name__}: {report}")


def assemble(kernel: Any, constants: dict[str, Any], logits: str, capability: int) -> str:
    """What the assembler says of spills and registers."""
    constants = {"BLOCK": kernels.MOST_COLUMNS, **constants}
    if kernel is kernel_code.gradient:
        constants["WITH_CROSS_ENTROPY"] = True
    signature = {name: type_of(name, logits) for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
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
    return ", ".join(found)


def type_of(name: str, logits: str) -> str:
    """Triton's name for the type of a kernel's argument."""
    match name:
        case "student" | "teacher":
            return logits
        case "labels":
            return "*i64"
        case "out" | "factors" | "normalisers" | "statistics":
            return "*fp32"
        case "num_tokens" | "num_columns":
            return "i32"
        case _:
            return "constexpr" if name.isupper() else "fp32"


if __name__ == "__main__":
    main()

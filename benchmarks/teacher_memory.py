"""Peak resident memory of each rank while a tensor-parallel teacher is loaded.

python benchmarks/teacher_memory.py [--layers 16] [--tp 1 2 4]

Writes a Llama of random bf16 weights into a temporary folder and loads it at each T. The
figures are beyond what a process holds after its imports.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from transformers import AutoModelForCausalLM, LlamaConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

STATUS = Path("/proc/self/status")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--tp", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = write_model(Path(folder), options.layers)
        print(f"the model: {size:,.0f} MiB in bf16")
        print(f"{'T':>3s}{'peak MiB a rank':>18s}{'of the model':>15s}{'held after':>13s}")
        for tp in options.tp:
            found = measure(tp, folder)
            peak, held = (max(rank[i] for rank in found) for i in range(2))
            print(f"{tp:3d}{peak:18,.0f}{peak / size:15.2f}{held:13,.0f}", flush=True)


def write_model(folder: Path, layers: int) -> float:
    """Random weights in files of about 200 MB; their size in MiB."""
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="200MB")
    return float(sum(p.numel() * p.element_size() for p in model.parameters())) / 2**20


def measure(tp: int, folder: str) -> list[tuple[float, float]]:
    """(peak, held afterwards) of each rank, in MiB."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as store:
        multiprocessing.spawn(run_rank, (tp, store, folder, results), nprocs=tp)
        return [results.get() for _ in range(tp)]


def run_rank(rank: int, tp: int, store: str, folder: str, out: Any) -> None:
    """One rank: load, report."""
    import torch.distributed as dist

    from taidscale.config.schema import TeacherConfig
    from taidscale.engine.runtime import end_ranks, start_ranks
    from taidscale.losses.vocabulary import Vocabulary
    from taidscale.models.families import read_model_config
    from taidscale.teachers.split import SplitTeacher

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}/s", rank=rank, world_size=tp)
    grid = start_ranks(tp, seed=0)
    architecture = read_model_config(Path(folder), "model")
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
    before = resident("VmRSS")
    config = TeacherConfig(model=folder, tp_size=tp)
    vocabulary = Vocabulary.split(architecture.vocab_size, grid.tp_rank, tp)
    teacher = SplitTeacher(config, architecture, Path(folder), vocabulary, grid)
    out.put((resident("VmHWM") - before, resident("VmRSS") - before))
    del teacher
    end_ranks()


def resident(entry: str) -> float:
    """Resident memory in MiB: now (VmRSS) or the largest (VmHWM)."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(entry):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {entry} in {STATUS}")


if __name__ == "__main__":
    main()

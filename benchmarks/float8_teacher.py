"""What computing in 8 bits changes in a real teacher, and in a student that learns from it.

python benchmarks/float8_teacher.py FOLDER [--steps 0] [--samples 64]

The teacher and the text are the quickstart's (SmolLM2-135M-Instruct, Python's documentation), which
FOLDER holds afterwards. On held-out text, over the whole vocabulary: KL(float32 || other type) in
nats per token, how often the likeliest token is the same, and the bytes of the layers. With
`--steps`, the quickstart's student learns so many steps from a bf16 and from an fp8 teacher, and
both are compared with the float32 teacher.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))

from taidscale.commands.work.quickstart import CONFIG, collect_text, fetch_teacher, pack, stage
from taidscale.config.load import load_config
from taidscale.config.schema import TeacherConfig
from taidscale.data.batches import MicroBatch
from taidscale.data.held_out import HeldOutLoader
from taidscale.engine.runtime import start_ranks
from taidscale.losses.vocabulary import Vocabulary
from taidscale.models.families import read_model_config
from taidscale.parallel.grid import Grid
from taidscale.teachers.split import SplitTeacher


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=0, help="of each student")
    parser.add_argument("--samples", type=int, default=64, help="held-out ones, 128 tokens each")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    stage("teacher", folder / "teacher", fetch_teacher)
    stage("text", folder / "text", collect_text)
    for name in ("train", "held-out"):
        stage(f"shards: {name}", folder / "data" / name, pack)
    students = {}
    for kind in ("bf16", "fp8") if options.steps else ():
        students[kind] = _learn(folder, kind, options.steps)
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29741",
    }
    torch.set_num_threads(1)
    grid = start_ranks(1, seed=0)
    ids = _held_out(folder, options.samples)
    right = _teacher(folder, "fp32", grid)
    print(f"\nheld-out tokens: {ids.numel():,}\n")
    print("teacher   MB of layers   KL to float32   same likeliest token")
    for kind in ("bf16", "fp8"):
        other = _teacher(folder, kind, grid)
        kl, same = _compare(right, other, ids)
        layers = other._trunk.model.layers.parameters()
        size = sum(p.numel() * p.element_size() for p in layers) / 1e6
        print(f"{kind:7} {size:14.1f} {kl:15.5f} {100 * same:20.2f} %", flush=True)
    if students:
        print(f"\nstudent after {options.steps} steps of   KL of the float32 teacher to it")
        for kind, student in students.items():
            model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32).eval()
            print(f"{kind:7} {_distance(right, model, ids):43.5f}", flush=True)


def _learn(folder: Path, kind: str, steps: int) -> Path:
    """Train and export the quickstart's student, on two ranks."""
    run, out = folder / f"run-{kind}", folder / f"student-{kind}"
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    train = [
        *(sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2"),
        *("--log_level", "error", "--module", "taidscale", "train", str(CONFIG)),
        *(f"run_dir={run}", f"teacher.model={folder / 'teacher'}", f"teacher.dtype={kind}"),
        *(f"total_steps={steps}", "learning_rate.warmup_steps=2"),
        f"data.streams.0.local={folder / 'data' / 'train'}",
        f"evaluation.data={folder / 'data' / 'held-out'}",
        *(f"evaluation.every_steps={steps}", f"checkpoint.every_steps={steps}"),
    ]
    if not out.exists():
        subprocess.run(train, env=environment, check=True)
        export = [sys.executable, "-m", "taidscale", "export", str(run), str(out)]
        subprocess.run(export, env=environment, check=True)
    return out


def _held_out(folder: Path, samples: int) -> torch.Tensor:
    """[samples, S] ids."""
    loader = HeldOutLoader(
        folder / "data" / "held-out",
        seq_len=load_config(CONFIG).seq_len,
        batch_size=samples,
        rank=0,
        world_size=1,
        vocab_size=2**32,
        max_samples=samples,
    )
    return next(iter(loader)).input_ids


def _teacher(folder: Path, kind: Any, grid: Grid) -> SplitTeacher:
    architecture = read_model_config(folder / "teacher", "teacher.model")
    config = TeacherConfig(model=str(folder / "teacher"), dtype=kind)
    size = architecture.vocab_size
    vocabulary = Vocabulary(size, 0, size)
    return SplitTeacher(config, architecture, folder / "teacher", vocabulary, grid)


def _log_probabilities(teacher: SplitTeacher, ids: torch.Tensor) -> torch.Tensor:
    """[N, V] of some sequences."""
    signal = teacher(MicroBatch(ids, ids))
    logits = torch.empty(signal.num_tokens, signal.num_columns, dtype=signal.dtype)
    signal.write_logits(slice(None), logits)
    return logits.double().log_softmax(-1)


def _compare(right: SplitTeacher, other: SplitTeacher, ids: torch.Tensor) -> tuple[float, float]:
    """Mean KL(right || other), and the share of tokens with the same likeliest next one."""
    total, same = 0.0, 0
    for row in ids.split(2):
        p, q = _log_probabilities(right, row), _log_probabilities(other, row)
        total += float((p.exp() * (p - q)).sum())
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
    return total / ids.numel(), same / ids.numel()


def _distance(right: SplitTeacher, student: Any, ids: torch.Tensor) -> float:
    total = 0.0
    for row in ids.split(2):
        p = _log_probabilities(right, row)
        with torch.no_grad():
            q = student(row).logits.flatten(0, 1).double().log_softmax(-1)
        total += float((p.exp() * (p - q)).sum())
    return total / ids.numel()


if __name__ == "__main__":
    main()

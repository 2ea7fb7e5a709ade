"""stories260K to a student a third of its size: tensor parallelism must not change the curve.

python benchmarks/stories.py MATERIAL OUT [--steps 500]

Trains the same run on 2 ranks with the teacher split over both (T = 2) and with a whole
teacher on each (T = 1), and draws both curves. MATERIAL holds `models/stories260K-llama-hf`
and `corpora/en/tinystories-*-sample.txt`.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
SEQ_LEN = 256
BOS_ID = 1
"""The teacher saw it before each story; here it separates them."""


def main() -> None:
    """Prepare, train twice, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("material", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    options.out = options.out.resolve()
    teacher = prepare(options.material.resolve(), options.out)
    config = options.out / "stories.yaml"
    config.write_text(yaml.safe_dump(settings(teacher, options.out, options.steps)))
    runs = {}
    for tp_size in (2, 1):
        run_dir = options.out / f"tp-{tp_size}"
        launch = [Path(sys.executable).with_name("deepspeed"), "--num_gpus", "2"]
        launch += ["--log_level", "error", "--module", "taidscale", "train", config]
        run(*launch, f"run_dir={run_dir}", f"teacher.tp_size={tp_size}")
        runs[tp_size] = [read_lines(run_dir / f"{n}.jsonl") for n in ("metrics", "evaluations")]
    report(runs, options.out / "stories.png")


def prepare(material: Path, out: Path) -> Path:
    """Pack the text into `out/train` and `out/valid`, unless they are there; the teacher."""
    out.mkdir(parents=True, exist_ok=True)
    teacher = material / "models" / "stories260K-llama-hf"
    for name in ("train", "valid"):
        if not (out / name).exists():
            text = material / "corpora" / "en" / f"tinystories-{name}-sample.txt"
            tool = ["-m", "taidscale", "prepare", "--tokenizer", teacher, "--seq-len", str(SEQ_LEN)]
            split = ["--separator-id", str(BOS_ID), "--split-on", "\\n\\n"]
            run(sys.executable, *tool, *split, "--out", out / name, text)
    return teacher


def settings(teacher: Path, out: Path, steps: int) -> dict[str, Any]:
    """The run's configuration: 86 k parameters against 260 k."""
    shape = {"hidden_size": 40, "intermediate_size": 128, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 5, "num_key_value_heads": 5}
    return {
        "run_dir": str(out / "run"),
        "precision": "fp32",
        "total_steps": steps,
        "seq_len": SEQ_LEN,
        "micro_batch_size": 8,
        "global_batch_size": 16,
        "teacher": {"model": str(teacher), "dtype": "fp32"},
        "student": {
            "init": {"source": "fresh", "config": str(teacher), "overrides": {**shape, **heads}}
        },
        "loss": {"objective": "taid", "t": {"schedule": "adaptive"}},
        "optimizer": {"beta2": 0.99, "weight_decay": 0.01},
        "learning_rate": {
            "schedule": "cosine",
            "peak": 5e-3,
            "warmup_steps": steps // 20,
            "final": 5e-4,
        },
        "data": {"streams": [{"local": str(out / "train")}], "num_canonical_nodes": 2},
        "evaluation": {"data": str(out / "valid"), "every_steps": steps // 5, "max_samples": 256},
        "checkpoint": {"every_steps": steps},
    }


def report(runs: dict[int, list[list[dict[str, Any]]]], picture: Path) -> None:
    """Print the held-out figures side by side, and draw the curves over each other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    (steps_two, two), (steps_one, one) = runs[2], runs[1]
    print(f"\n{'step':>6s}{'t':>8s}{'held-out KL, T=2':>20s}{'T=1':>10s}{'difference':>12s}")
    for a, b in zip(two, one, strict=True):
        gap = abs(a["teacher_kl"] - b["teacher_kl"])
        print(
            f"{a['step']:6d}{a['t']:8.3f}{a['teacher_kl']:20.5f}{b['teacher_kl']:10.5f}{gap:12.1e}"
        )
    gaps = [abs(a["loss"] - b["loss"]) for a, b in zip(steps_two, steps_one, strict=True)]
    print(
        f"training loss: largest difference {max(gaps):.1e}, in the first 20 steps "
        f"{max(gaps[:20]):.1e}"
    )
    teacher_loss, student_loss = two[-1]["teacher_next_token_loss"], two[-1]["next_token_loss"]
    print(f"next-token loss: teacher {teacher_loss:.3f}, student {student_loss:.3f} nats")
    figure, (top, bottom) = pyplot.subplots(
        2, 1, sharex=True, figsize=(7, 5), height_ratios=(3, 1), layout="constrained"
    )
    for tp_size, style in ((2, "-"), (1, ":")):
        steps, held_out = runs[tp_size]
        x = [entry["step"] for entry in steps]
        name = f"T = {tp_size}"
        top.plot(x, [e["teacher_kl"] for e in steps], style, label=f"KL to the teacher, {name}")
        top.plot(x, [e["mixture_kl"] for e in steps], style, label=f"TAID loss, {name}")
        held = [(e["step"], e["teacher_kl"]) for e in held_out]
        top.plot(*zip(*held, strict=True), "o" if tp_size == 2 else "x", label=f"held out, {name}")
        bottom.plot(x, [entry["t"] for entry in steps], style, label=name)
    top.set(ylabel="nats per token", ylim=(0, None), title="stories260K to 86 k parameters")
    top.legend(ncols=2)
    bottom.set(ylabel="t", xlabel="optimizer step", ylim=(0, 1.05))
    figure.savefig(picture, dpi=120)
    print(f"drawn: {picture}")


def run(*command: str | Path, log: Path | None = None) -> None:
    """Run a command of this project, and stop where it fails; its output goes to `log`, if any."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("w") if log else contextlib.nullcontext() as output:
        subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            check=True,
        )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Entries of a `.jsonl` file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()

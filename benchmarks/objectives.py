"""stories260K to a student a third of its size, once with each objective and seed.

python benchmarks/objectives.py MATERIAL OUT [--steps N] [--seeds 3] [--objectives ...] [--jobs 2]

Every run is `taidscale train CONFIG` on one rank, with a config and a folder of its own
in OUT/runs; one whose last evaluation is there is not repeated. Writes objectives.csv (the table),
runs.csv (each seed) and objectives.png. MATERIAL holds what `benchmarks/stories.py` needs.

How to read the table: the held-out KL is KL(teacher ‖ student), which forward_kl itself
minimises, and the next-token loss is what cross_entropy minimises; no objective minimises the
share of tokens on which the likeliest next token of both models agrees. Everything but the loss
is the same for all objectives: the learning rate of `benchmarks/stories.py`, untuned, and a batch
size chosen by the held-out KL of two forward_kl runs, which may favour it. Divergences differ in
the scale of their gradients: Adam undoes a constant factor, clipping does not, hence the share of
steps that were clipped. In a run far shorter than 4,000 steps the adaptive t of `taid` is its
linear floor, one step behind `taid_linear`: how far these two rows are apart is what chance does.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from stories import SEQ_LEN, prepare, read_lines, run, settings

LINEAR_T = {"schedule": "linear", "t_start": 0.4, "t_end": 1.0}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "taid": {"objective": "taid", "t": {"schedule": "adaptive"}},
    "taid_linear": {"objective": "taid", "t": LINEAR_T},
    "forward_kl": {"objective": "forward_kl"},
    "reverse_kl": {"objective": "reverse_kl"},
    "jensen_shannon": {"objective": "jensen_shannon", "beta": 0.5},
    "skew_forward_kl": {"objective": "skew_forward_kl", "skew": 0.1},
    "skew_reverse_kl": {"objective": "skew_reverse_kl", "skew": 0.1},
    "total_variation": {"objective": "total_variation"},
    "adaptive_kl": {"objective": "adaptive_kl"},
    "decoupled_kl": {"objective": "decoupled_kl"},
    "alpha_beta": {"objective": "alpha_beta", "alpha": 0.2, "beta": 0.7},
    "alpha_mixture": {"objective": "alpha_mixture", "alpha": 0.5, "t": LINEAR_T},
    "cross_entropy": {"objective": "cross_entropy"},
}
BATCH_SIZE = 4
"""Sequences; in equal time forward_kl came further with 4 than with 8."""
HELD_OUT_SAMPLES = 256
MEASURES = ("teacher_kl", "next_token_loss", "top1_agreement")
"""Of the last evaluation; the first decides the order of the table."""


@dataclass(frozen=True)
class Run:
    """One objective with one seed."""

    objective: str
    seed: int
    config: Path
    """Its settings; `.log` beside it is its output, the folder without suffix its own."""

    @property
    def folder(self) -> Path:
        """Everything that the training command writes."""
        return self.config.with_suffix("")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Entries of its `metrics` or `evaluations`; none before it started."""
        path = self.folder / f"{name}.jsonl"
        return read_lines(path) if path.exists() else []

    def is_done(self, steps: int) -> bool:
        """Whether its last evaluation is there."""
        evaluations = self.lines("evaluations")
        return bool(evaluations) and evaluations[-1]["step"] == steps


def main() -> None:
    """Prepare, train what is missing, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("material", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, a CPU core each")
    options = parser.parse_args()
    out = options.out.resolve()
    teacher = prepare(options.material.resolve(), out)
    runs = [
        configured(objective, seed, teacher, out, options.steps)
        for seed in range(options.seeds)
        for objective in dict.fromkeys(options.objectives)
    ]
    failed = train([r for r in runs if not r.is_done(options.steps)], len(runs), options.jobs)
    done = [r for r in runs if r.is_done(options.steps)]
    if done:
        check_same_start(done)
        print(describe(done, out, options.steps))
        report(done, out)
    if failed:
        sys.exit(f"{failed} of {len(runs)} runs failed; the table is without them")


def configured(objective: str, seed: int, teacher: Path, out: Path, steps: int) -> Run:
    """Write the config of a run, or compare it with what the folder was begun with."""
    wanted = Run(objective, seed, out / "runs" / f"{objective}-seed-{seed}.yaml")
    config = {
        **settings(teacher, out, steps),
        "run_dir": str(wanted.folder),
        "seed": seed,
        "global_batch_size": BATCH_SIZE,
        "micro_batch_size": BATCH_SIZE,
        "loss": OBJECTIVES[objective],
        "evaluation": {
            "data": str(out / "valid"),
            "every_steps": steps,
            "at_start": False,
            "max_samples": HELD_OUT_SAMPLES,
        },
    }
    if wanted.config.exists() and yaml.safe_load(wanted.config.read_text()) != config:
        sys.exit(f"{wanted.config} has other settings than this sweep; choose another OUT")
    wanted.config.parent.mkdir(exist_ok=True)
    wanted.config.write_text(yaml.safe_dump(config))
    return wanted


def train(missing: list[Run], total: int, jobs: int) -> int:
    """Do the missing runs of a sweep of `total`; how many failed."""
    started = time.monotonic()
    failed, before = 0, total - len(missing)
    print(f"{total} runs, of which {before} are done", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        begun = {pool.submit(train_one, one): one for one in missing}
        try:
            for number, future in enumerate(as_completed(begun), start=1):
                one = begun[future]
                failed += not future.result()
                seconds = time.monotonic() - started
                left = seconds / number * (len(missing) - number)
                print(
                    f"run {before + number} of {total}: {one.objective}, seed {one.seed}, "
                    f"{outcome(one)}; {seconds / 60:.1f} minutes, {left / 60:.1f} left",
                    flush=True,
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def train_one(one: Run) -> bool:
    """The real command; whether it succeeded."""
    try:
        run(
            *[sys.executable, "-m", "taidscale", "train", one.config],
            log=one.config.with_suffix(".log"),
        )
    except subprocess.CalledProcessError:
        return False
    return True


def outcome(one: Run) -> str:
    """The last held-out figures in words, or where to read why there are none."""
    steps, evaluations = one.lines("metrics"), one.lines("evaluations")
    if not evaluations:
        return f"FAILED, see {one.config.with_suffix('.log')}"
    rate = statistics.median(entry["step_seconds"] for entry in steps)
    return f"KL {evaluations[-1]['teacher_kl']:.4f}, {1 / rate:.1f} steps/s"


def check_same_start(runs: list[Run]) -> None:
    """A seed must give all objectives the same student and the same first batch."""
    first: dict[int, float] = {}
    for one in runs:
        loss = one.lines("metrics")[0]["next_token_loss"]
        if abs(first.setdefault(one.seed, loss) - loss) > 1e-5:
            sys.exit(f"{one.folder} began with a loss of {loss}, others with {first[one.seed]}")


def describe(runs: list[Run], out: Path, steps: int) -> str:
    """What the runs share, and the figures to compare with."""
    index = json.loads((out / "train" / "index.json").read_text())
    samples = sum(shard["samples"] for shard in index["shards"])
    shared = yaml.safe_load((runs[0].folder / "config.yaml").read_text())
    rate, optimizer = shared["learning_rate"], shared["optimizer"]
    before, after = runs[0].lines("metrics")[0], runs[0].lines("evaluations")[-1]
    return (
        f"\n{steps} steps of {BATCH_SIZE} x {SEQ_LEN} tokens, {steps * BATCH_SIZE / samples:.1f} "
        f"passes over {samples:,} samples; held out: {after['num_tokens']:,} tokens\n"
        f"The same for all objectives: AdamW, {rate['schedule']} learning rate {rate['peak']:g} to "
        f"{rate['final']:g} (untuned), clipping at {optimizer['gradient_clipping']:g}, batch size "
        "chosen with forward_kl\n"
        f"next-token loss: teacher {after['teacher_next_token_loss']:.4f}, untrained student "
        f"{before['next_token_loss']:.2f} nats per token\n"
    )


def report(runs: list[Run], out: Path) -> None:
    """Print and write the table, best held-out KL first, and draw it."""
    rows = [row_of_run(one) for one in runs]
    write_csv(out / "runs.csv", rows)
    table = [
        row_of_objective(name, [row for row in rows if row["objective"] == name])
        for name in dict.fromkeys(row["objective"] for row in rows)
    ]
    table.sort(key=lambda row: row[f"{MEASURES[0]}_mean"])
    write_csv(out / "objectives.csv", table)
    titles = ("held-out KL to the teacher", "next-token loss", "top-1 agreement")
    print(
        f"{'mean ± deviation (min..max)':28s}" + "".join(f"{title:>34s}" for title in titles),
        "clipped",
    )
    for row in table:
        figures = (
            f"{row[f'{m}_mean']:.4f} ± {row[f'{m}_deviation']:.4f} "
            f"({row[f'{m}_min']:.4f}..{row[f'{m}_max']:.4f})"
            for m in MEASURES
        )
        print(
            f"{row['objective']:16s}{row['seeds']:3d} seeds   "
            + "".join(f"{figure:>34s}" for figure in figures)
            + f"{row['clipped_steps']:8.0%}"
        )
    draw(rows, table, out / "objectives.png")
    print(f"written: objectives.csv, runs.csv and objectives.png in {out}")


def row_of_run(one: Run) -> dict[str, Any]:
    """Of `runs.csv`."""
    steps, last = one.lines("metrics"), one.lines("evaluations")[-1]
    limit = yaml.safe_load((one.folder / "config.yaml").read_text())["optimizer"]
    clipped = [entry["gradient_norm"] > limit["gradient_clipping"] for entry in steps]
    return {
        "objective": one.objective,
        "seed": one.seed,
        **{measure: last[measure] for measure in MEASURES},
        "teacher_next_token_loss": last["teacher_next_token_loss"],
        "clipped_steps": statistics.fmean(clipped),
        "step_seconds": statistics.median(entry["step_seconds"] for entry in steps),
    }


def row_of_objective(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of `objectives.csv`; the deviation of a single seed is nan."""
    figures = {}
    for measure in MEASURES:
        values = [row[measure] for row in rows]
        deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
        figures |= {f"{measure}_mean": statistics.fmean(values), f"{measure}_deviation": deviation}
        figures |= {f"{measure}_min": min(values), f"{measure}_max": max(values)}
    rest = ("teacher_next_token_loss", "clipped_steps", "step_seconds")
    means = {measure: statistics.fmean(row[measure] for row in rows) for measure in rest}
    return {"objective": name, "seeds": len(rows), **figures, **means}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """A column for each entry."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: list[dict[str, Any]], table: list[dict[str, Any]], picture: Path) -> None:
    """A dot for each seed and a bar at the mean, in the order of the table."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [row["objective"] for row in table]
    figure, axes = pyplot.subplots(
        1, 2, sharey=True, figsize=(10, 1.2 + 0.36 * len(names)), layout="constrained"
    )
    for axis, measure in zip(axes, MEASURES, strict=False):
        for place, row in enumerate(table):
            values = [r[measure] for r in rows if r["objective"] == row["objective"]]
            axis.plot(values, [place] * len(values), "o", color="C0", alpha=0.6)
            axis.plot(row[f"{measure}_mean"], place, "|", color="C1", ms=18, mew=2.5)
        axis.grid(axis="x", alpha=0.4)
    axes[0].set(xlabel="KL to the teacher, nats per token", yticks=range(len(names)))
    axes[0].set(yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    axes[1].axvline(table[0]["teacher_next_token_loss"], color="black", ls=":", label="teacher")
    axes[1].set(xlabel="next-token loss, nats per token")
    axes[1].legend()
    figure.suptitle("Held out: stories260K to a third; a dot a seed, the bar their mean")
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    main()

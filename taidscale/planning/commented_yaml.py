"""A first configuration as a person reads and changes it: YAML with a reason beside each choice."""

from collections.abc import Iterator
from typing import Any

import yaml

from taidscale.planning.duration import duration
from taidscale.planning.gpus import GIB, Gpu
from taidscale.planning.memory import memory
from taidscale.planning.workload import Workload


def commented_yaml(load: Workload, gpu: Gpu) -> str:
    """What differs from the defaults, and what should be looked at though it does not."""
    config, reasons = load.config, _reasons(load)
    whole = config.model_dump(mode="json")
    changed = config.model_dump(mode="json", exclude_defaults=True)
    head = [
        f"# {summary(load, gpu)}",
        "# What is left out has its default; `taidscale settings` explains every setting.",
    ]
    return "\n".join([*head, *_lines(whole, changed, "", reasons)]) + "\n"


def summary(load: Workload, gpu: Gpu) -> str:
    """What the planner expects, in one line."""
    seconds, needed = duration(load, gpu).step_seconds, memory(load).needed
    return (
        f"For {load.world_size:,} x {gpu.name}, by the planner: {needed / GIB:,.1f} of "
        f"{gpu.memory / GIB:,.1f} GiB a GPU, {load.step_tokens / seconds:,.0f} tokens/s, "
        f"{load.config.total_steps * seconds / 86_400:,.1f} days"
    )


def _reasons(load: Workload) -> dict[str, str]:
    """By dotted path; settings that have one are written even if they are the defaults."""
    config = load.config
    batch, seq_len = config.global_batch_size, config.seq_len
    copies = load.world_size // load.tp_size
    again = config.student.gradient_checkpointing
    return {
        "run_dir": "on a file system that all nodes share",
        "precision": "of the student; its masters are fp32",
        "total_steps": f"of {batch:,} x {seq_len:,} tokens: {load.step_tokens:,} each",
        "seq_len": "that of the shards",
        "micro_batch_size": f"sequences of a GPU at once, {load.grad_accum_steps} times a step",
        "global_batch_size": "sequences of a step, of all GPUs",
        "teacher.tp_size": f"GPUs of a node that share a copy; there are {copies:,}",
        "teacher.dtype": "of its weights",
        "student.init.model": "with the teacher's tokenizer; each start compares them",
        "student.gradient_checkpointing": "saves memory for a second forward"
        if again
        else "its activations fit without",
        "loss.objective": "the README lists the others",
        "loss.t.alpha_times_steps": "t takes the same curve at any length",
        "learning_rate.peak": "lower, 2e-5 say, for a student that is tuned already",
        "data.streams": "as `taidscale prepare` writes them; mix them by `proportion`",
        "checkpoint.every_steps": "the same command goes on from the newest",
    }


def _lines(
    whole: dict[str, Any], changed: dict[str, Any], prefix: str, reasons: dict[str, str]
) -> Iterator[str]:
    """A section's settings, with a blank line before each section of the run."""
    indent = "  " * prefix.count(".")
    # What decides between variants stands before their settings.
    tags = ("source", "objective", "schedule")
    for name, value in sorted(whole.items(), key=lambda item: item[0] not in tags):
        path = prefix + name
        explained = any(reason == path or reason.startswith(f"{path}.") for reason in reasons)
        if name not in changed and not explained:
            continue
        if isinstance(value, dict) and value:
            yield from [] if prefix else [""]
            yield f"{indent}{name}:"
            yield from _lines(value, changed.get(name, {}), f"{path}.", reasons)
            continue
        reason = f"  # {reasons[path]}" if path in reasons else ""
        items = isinstance(value, list) and all(isinstance(item, dict) for item in value)
        yield f"{indent}{name}:{'' if items else ' ' + _scalar(value)}{reason}"
        for item in changed[name] if items else ():
            yield f"{indent}  - {_scalar(item)}"


def _scalar(value: Any) -> str:
    """In one line of YAML."""
    line = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return line.removesuffix("...\n").strip()

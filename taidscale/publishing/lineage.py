"""What a run says about the student that it made: for the model card."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taidscale.checkpoint.description import Description, read_description
from taidscale.checkpoint.export import LINEAGE_FILE
from taidscale.config.load import config_of
from taidscale.config.loss import InterpolationSection
from taidscale.config.schema import FreshInit, LearningRateConfig, RunConfig
from taidscale.corpus.documents import DATASET_PREFIX
from taidscale.data.manifest import Manifest, read_manifest
from taidscale.file_names import EVALUATIONS_FILE, EVENTS_FILE, METRICS_FILE
from taidscale.home import at_home
from taidscale.metrics.run_files import read_entries
from taidscale.publishing.card import Card, table
from taidscale.publishing.curve import CURVE, draw_t, t_table
from taidscale.publishing.runs_text import limits, runs_section, taught
from taidscale.publishing.sources import Source, find_sources
from taidscale.publishing.stages import (
    Part,
    Stage,
    read_parts,
    read_stages,
    stage_of,
    stages_file,
)

_NOT_FIGURES = ("step", "t", "num_tokens", "unix_seconds", "data")


@dataclass(frozen=True)
class RunRecord:
    """A run up to the checkpoint that the weights are from."""

    config: RunConfig
    checkpoint: Description
    metrics: list[dict[str, Any]]
    """Lines of `metrics.jsonl` up to its step."""
    evaluations: list[dict[str, Any]]
    """Lines of `evaluations.jsonl` up to its step."""
    parts: tuple[Part, ...]
    """What it was told, and from which step on."""
    earlier: tuple[Stage, ...]
    """The runs before it that made the student's first weights, as far as they are known."""

    @classmethod
    def read(cls, config: RunConfig, checkpoint: Path, student_folder: Path) -> "RunRecord":
        """What a run's folder holds about one of its checkpoints.

        Args:
            config: of the run now; the checkpoint's own, where it can be read, is taken.
            checkpoint: its folder.
            student_folder: what the run keeps beside its checkpoints for exports.

        Raises:
            ValueError: if the checkpoint is not there, or the student's `lineage.json` is damaged.
        """
        said = read_description(checkpoint)
        step, run_dir = said.step, checkpoint.parents[1]
        metrics, evaluations = (
            _read_until(run_dir / name, step) for name in (METRICS_FILE, EVALUATIONS_FILE)
        )
        config = config_of(said.settings) or config
        parts = read_parts(run_dir / EVENTS_FILE, config, step)
        earlier = read_stages(student_folder / LINEAGE_FILE)
        return cls(config, said, metrics, evaluations, parts, earlier)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The earlier runs, and this one."""
        return (*self.earlier, stage_of(self.config, self.parts, self.checkpoint.progress))


def new_card(record: RunRecord, title: str) -> tuple[Card, dict[str, bytes]]:
    """A card of all that the run says.

    Returns:
        The card, and the files that lie next to it, by name.
    """
    body = f"\n# {title}\n\n<!-- taidscale:run -->\n<!-- /taidscale:run -->\n\n"
    body += f"<!-- taidscale:results -->\n<!-- /taidscale:results -->\n\n{limits(record.stages)}\n"
    return describe(Card.new(_metadata(record), body), record)


def describe(card: Card, record: RunRecord) -> tuple[Card, dict[str, bytes]]:
    """The card with its section about the run made anew; and the files next to it."""
    parts = [
        _introduction(record),
        _models(find_sources(record.config, record.parts)),
        runs_section(record.stages),
        _data(record),
        _training(record),
    ]
    moved = [m for m in record.metrics if "teacher_kl" in m and "t" in m]
    files = {LINEAGE_FILE: stages_file(record.stages)}
    if isinstance(record.config.loss, InterpolationSection) and moved:
        picture = draw_t(moved)
        if picture is not None:
            files[CURVE] = picture
        shown = f"![t and the KL to the teacher by step]({CURVE})" if picture else t_table(moved)
        parts.append(f"## How t moved\n\n{shown}")
    parts += _evaluations(record.evaluations)
    text = "\n\n".join(filter(None, parts))
    return card.with_section("run", text, f"step={record.checkpoint.step}"), files


def _metadata(record: RunRecord) -> dict[str, Any]:
    config, sources = record.config, find_sources(record.config, record.parts)
    entries: dict[str, Any] = {}
    names = ("license", "license_name", "license_link")
    licences = [{n: s.metadata[n] for n in names if n in s.metadata} for s in sources]
    if licences and licences[0].get("license") and all(own == licences[0] for own in licences):
        entries |= licences[0]
    if sources:
        entries["base_model"] = _models_behind(sources, record.earlier)
        if not isinstance(config.student.init, FreshInit):
            entries["base_model_relation"] = "finetune"
    manifests = [found for stream in config.data.streams if (found := _manifest(stream.local))]
    datasets = {source for found in manifests for source in found.sources}
    prefix = DATASET_PREFIX
    names_there = {d.removeprefix(prefix).split(":")[0] for d in datasets if d.startswith(prefix)}
    if names_there:
        entries["datasets"] = sorted(names_there)
    stages = record.stages
    kind = ["distillation"] if any(stage.teachers for stage in stages) else []
    objectives = [part.objective for stage in reversed(stages) for part in reversed(stage.parts)]
    tags = [*kind, *objectives, "taidscale"]
    return entries | {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(tags)),
    }


def _manifest(folder: str) -> Manifest | None:
    """Of a stream's shards, where they are on this machine."""
    try:
        return read_manifest(at_home(folder))
    except ValueError:
        return None


def _read_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Lines of a `.jsonl` file up to a step; none where there is no file."""
    return [entry for entry in read_entries(path) if entry["step"] <= step]


def _models_behind(sources: list[Source], earlier: tuple[Stage, ...]) -> list[str]:
    """Names of what this run started from, and of what the earlier ones did."""
    names = [source.name for source in sources]
    names += [stage.first_weights for stage in earlier[:1] if stage.first_weights]
    names += [teacher for stage in earlier for teacher in stage.teachers]
    return list(dict.fromkeys(names))


def _introduction(record: RunRecord) -> str:
    *earlier, last = record.stages
    text = (
        f"A causal language model of {record.checkpoint.num_parameters:,} parameters, "
        f"{taught(last)} over {last.num_tokens:,} tokens with TAIDScale."
    )
    if earlier:
        runs = "; ".join(f"{taught(s)} over {s.num_tokens:,} tokens" for s in earlier)
        text += f" Before that, it was {runs}."
    return text


def _models(sources: list[Source]) -> str:
    rows = [[s.role, s.name, str(s.metadata.get("license", "not known"))] for s in sources]
    return "## Models\n\n" + table([["role", "model", "licence"], *rows]) if rows else ""


def _data(record: RunRecord) -> str:
    """The streams, with their shares of each phase."""
    data, step = record.config.data, record.checkpoint.step
    starts = [0, *(phase.from_step for phase in data.phases if phase.from_step < step)]
    rows = []
    for stream in data.streams:
        found = _manifest(stream.local)
        shares = []
        for start in starts:
            mix = data.proportions_at(start)
            total = sum(mix.values()) if mix else 0
            shares.append(f"{mix[stream.stream_name] / total:.1%}" if mix else "by size")
        size = f"{found.num_tokens:,}" if found else "-"
        rows.append([stream.stream_name, size, *shares])
    head = ["share" if not start else f"from step {start:,}" for start in starts]
    return "## Data\n\n" + table([["stream", "tokens in it", *head], *rows])


def _training(record: RunRecord) -> str:
    config, saved = record.config, record.checkpoint
    progress, layout = saved.progress, saved.layout
    optimizer = config.optimizer
    entries = {
        "objective": _objective(record),
        "optimizer steps": f"{progress.step:,} of {config.total_steps:,}",
        "tokens": f"{progress.num_tokens:,}",
        "t at the end": f"{progress.t:.4f}",
        "sequence length": f"{config.seq_len:,}",
        "sequences per step": f"{config.global_batch_size:,}",
        "learning rate": _learning_rate(config.learning_rate),
        "AdamW": f"betas {optimizer.beta1:g} and {optimizer.beta2:g}, weight decay "
        f"{optimizer.weight_decay:g}, gradients clipped at {optimizer.gradient_clipping:g}",
        "precision": config.precision + (", fp32 masters" if config.precision == "bf16" else ""),
        "hardware": f"{layout.world_size:,} ranks, ZeRO stage {layout.stage}"
        + (f", teacher over {config.teacher.tp_size}" if config.teacher else ""),
        "seed": f"{config.seed}",
        "versions": ", ".join(f"{name} {number}" for name, number in saved.versions.items()),
    }
    if not isinstance(config.loss, InterpolationSection):
        del entries["t at the end"]
    rows = [[name, value] for name, value in entries.items()]
    return "## Training\n\n" + table([["", ""], *rows])


def _objective(record: RunRecord) -> str:
    """Its name and those of its settings that change the result."""
    loss = record.config.loss
    settings, whole = (loss.model_dump(mode="json", exclude_defaults=d) for d in (True, False))
    if "t" in settings:  # which schedule it is, also where it is the usual one
        settings["t"] = {"schedule": whole["t"]["schedule"]} | settings["t"]
    hidden = ("objective", "logits_mib", "chunk_tokens", "kernels")
    shown = {name: value for name, value in settings.items() if name not in hidden}
    return record.config.loss.objective + (f", `{json.dumps(shown)}`" if shown else "")


def _learning_rate(rate: LearningRateConfig) -> str:
    rest = rate.model_dump(exclude={"schedule", "peak"})
    return f"{rate.schedule}, peak {rate.peak:g}" + "".join(
        f", {name.replace('_', ' ')} {value:g}" for name, value in rest.items()
    )


def _evaluations(evaluations: list[dict[str, Any]]) -> list[str]:
    """Of each held-out set, the first evaluation and the last."""
    parts = []
    for data in dict.fromkeys(entry["data"] for entry in evaluations):
        of_data = [entry for entry in evaluations if entry["data"] == data]
        first, last = of_data[0], of_data[-1]
        rows = [
            [name.replace("_", " "), f"{first[name]:.4f}", f"{last[name]:.4f}"]
            for name in last
            if name in first and name not in _NOT_FIGURES
        ]
        head = ["", f"step {first['step']}", f"step {last['step']}"]
        parts.append(f"## Held-out tokens: {data}\n\n" + table([head, *rows]))
    return parts

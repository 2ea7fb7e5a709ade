"""What a run says about the student that it made: for the model card."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from taidscale.checkpoint.manifest import read_facts
from taidscale.config.loss import InterpolationSection
from taidscale.config.schema import (
    FreshInit,
    LearningRateConfig,
    PretrainedInit,
    RunConfig,
    TeacherLayersInit,
)
from taidscale.data.corpus.documents import DATASET_PREFIX
from taidscale.data.manifest import Manifest, read_manifest
from taidscale.metrics.run_files import EVALUATIONS_FILE, METRICS_FILE, read_entries
from taidscale.publishing.card import Card, table
from taidscale.publishing.curve import CURVE, draw_t, t_table

LIMITS = """## Limits

The student was trained to give each next token the probabilities that its teacher gives it, on the
data above. It keeps the teacher's errors and biases, adds its own, and knows less. Figures on
held-out tokens say how near it is to the teacher, not whether what it writes is true, harmless or
useful; test that for the use that you have in mind."""

_NOT_FIGURES = ("step", "t", "num_tokens", "unix_seconds", "data")


@dataclass(frozen=True)
class RunRecord:
    """A run up to the checkpoint that the weights are from."""

    config: RunConfig
    facts: dict[str, Any]
    """The checkpoint's manifest."""
    metrics: list[dict[str, Any]]
    """Lines of `metrics.jsonl` up to its step."""
    evaluations: list[dict[str, Any]]
    """Lines of `evaluations.jsonl` up to its step."""

    @classmethod
    def read(cls, config: RunConfig, checkpoint: Path) -> "RunRecord":
        """What a run's folder holds about one of its checkpoints.

        Raises:
            ValueError: if the checkpoint is not there.
        """
        facts = read_facts(checkpoint)
        step, run_dir = facts["progress"]["step"], checkpoint.parents[1]
        metrics, evaluations = (
            _read_until(run_dir / name, step) for name in (METRICS_FILE, EVALUATIONS_FILE)
        )
        return cls(config, facts, metrics, evaluations)

    @property
    def step(self) -> int:
        """Optimizer steps of the checkpoint."""
        return int(self.facts["progress"]["step"])


@dataclass(frozen=True)
class _Source:
    """A model that the student was made from."""

    role: str
    name: str
    metadata: dict[str, Any]
    """Of its own card; empty if it is not known."""


def new_card(record: RunRecord, title: str) -> tuple[Card, dict[str, bytes]]:
    """A card of all that the run says.

    Returns:
        The card, and the pictures that lie next to it, by name of the file.
    """
    body = f"\n# {title}\n\n<!-- taidscale:run -->\n<!-- /taidscale:run -->\n\n"
    body += f"<!-- taidscale:results -->\n<!-- /taidscale:results -->\n\n{LIMITS}\n"
    return describe(Card.new(_metadata(record), body), record)


def describe(card: Card, record: RunRecord) -> tuple[Card, dict[str, bytes]]:
    """The card with its section about the run made anew; and the pictures next to it."""
    sources = _sources(record.config)
    parts = [_introduction(record, sources), _models(sources), _data(record), _training(record)]
    moved = [m for m in record.metrics if "teacher_kl" in m and "t" in m]
    pictures: dict[str, bytes] = {}
    if isinstance(record.config.loss, InterpolationSection) and moved:
        picture = draw_t(moved)
        if picture is not None:
            pictures[CURVE] = picture
        shown = f"![t and the KL to the teacher by step]({CURVE})" if picture else t_table(moved)
        parts.append(f"## How t moved\n\n{shown}")
    parts += _evaluations(record.evaluations)
    return card.with_section("run", "\n\n".join(parts), f"step={record.step}"), pictures


def _sources(config: RunConfig) -> list[_Source]:
    init, sources = config.student.init, []
    if isinstance(init, PretrainedInit):
        known = _card_of(init.model, init.revision)
        sources.append(_Source("student's first weights", _short(init.model), known))
    if config.teacher is not None:
        known = _card_of(config.teacher.model, config.teacher.revision)
        role = "teacher"
        if isinstance(init, TeacherLayersInit):
            role = f"teacher, and {len(init.layers)} of its layers as the student's first weights"
        sources.append(_Source(role, _short(config.teacher.model), known))
    return sources


def _card_of(model: str, revision: str | None) -> dict[str, Any]:
    """The metadata of a model's own card; a few kilobytes from the Hub, where it is not here."""
    folder = Path(model).expanduser()
    try:
        path = folder / "README.md"
        if not folder.is_dir():
            path = Path(hf_hub_download(model, "README.md", revision=revision))
        return Card.parse(path.read_text(encoding="utf-8"), str(path)).metadata
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        return {}


def _short(model: str) -> str:
    """A folder's path is nobody else's business."""
    folder = Path(model).expanduser()
    return folder.name if folder.is_dir() or folder.is_absolute() else model


def _metadata(record: RunRecord) -> dict[str, Any]:
    config, sources = record.config, _sources(record.config)
    entries: dict[str, Any] = {}
    names = ("license", "license_name", "license_link")
    licences = [{n: s.metadata[n] for n in names if n in s.metadata} for s in sources]
    if licences and licences[0].get("license") and all(own == licences[0] for own in licences):
        entries |= licences[0]
    if sources:
        entries["base_model"] = [source.name for source in sources]
        if not isinstance(config.student.init, FreshInit):
            entries["base_model_relation"] = "finetune"
    manifests = [found for stream in config.data.streams if (found := _manifest(stream.local))]
    datasets = {source for found in manifests for source in found.sources}
    prefix = DATASET_PREFIX
    names_there = {d.removeprefix(prefix).split(":")[0] for d in datasets if d.startswith(prefix)}
    if names_there:
        entries["datasets"] = sorted(names_there)
    tags = ["distillation", config.loss.objective, "taidscale"]
    return entries | {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(tags)),
    }


def _manifest(folder: str) -> Manifest | None:
    """Of a stream's shards, where they are on this machine."""
    try:
        return read_manifest(Path(folder).expanduser())
    except ValueError:
        return None


def _read_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Lines of a `.jsonl` file up to a step; none where there is no file."""
    return [entry for entry in read_entries(path) if entry["step"] <= step]


def _introduction(record: RunRecord, sources: list[_Source]) -> str:
    progress, teacher = record.facts["progress"], record.config.teacher
    name = sources[-1].name if teacher is not None else None
    return (
        f"A causal language model of {record.facts['num_parameters']:,} parameters, "
        + (f"distilled from {name}" if name else "trained without a teacher")
        + f" over {progress['num_tokens']:,} tokens with TAIDScale."
    )


def _models(sources: list[_Source]) -> str:
    rows = [[s.role, s.name, str(s.metadata.get("license", "not known"))] for s in sources]
    return "## Models\n\n" + table([["role", "model", "licence"], *rows]) if rows else ""


def _data(record: RunRecord) -> str:
    """The streams, with their shares of each phase."""
    data = record.config.data
    starts = [0, *(phase.from_step for phase in data.phases if phase.from_step < record.step)]
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
    config, facts = record.config, record.facts
    progress, layout = facts["progress"], facts["layout"]
    optimizer = config.optimizer
    entries = {
        "objective": _objective(record),
        "optimizer steps": f"{progress['step']:,} of {config.total_steps:,}",
        "tokens": f"{progress['num_tokens']:,}",
        "t at the end": f"{progress['t_state']['t']:.4f}",
        "sequence length": f"{config.seq_len:,}",
        "sequences per step": f"{config.global_batch_size:,}",
        "learning rate": _learning_rate(config.learning_rate),
        "AdamW": f"betas {optimizer.beta1:g} and {optimizer.beta2:g}, weight decay "
        f"{optimizer.weight_decay:g}, gradients clipped at {optimizer.gradient_clipping:g}",
        "precision": config.precision + (", fp32 masters" if config.precision == "bf16" else ""),
        "hardware": f"{layout['world_size']:,} ranks, ZeRO stage {layout['stage']}"
        + (f", teacher over {config.teacher.tp_size}" if config.teacher else ""),
        "seed": f"{config.seed}",
        "versions": ", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
    }
    if not isinstance(config.loss, InterpolationSection):
        del entries["t at the end"]
    rows = [[name, value] for name, value in entries.items()]
    return "## Training\n\n" + table([["", ""], *rows])


def _objective(record: RunRecord) -> str:
    """Its name and those of its settings that change the result."""
    settings = record.config.loss.model_dump(mode="json", exclude_defaults=True)
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

"""Which models are understood, and what is special about each."""

import functools
import re
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import CONFIG_MAPPING, PretrainedConfig

from taidscale.home import at_home
from taidscale.models.config_file import CONFIG_FILE, read_entries, to_config

STUDENTS = (
    *("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text"),
    *("smollm3", "phi3", "gpt_neox", "stablelm", "olmo2"),
)
"""`model_type` of what can be a student, and a teacher."""
FAMILIES = (
    *STUDENTS,
    *("olmo", "olmo3", "granite", "ministral", "seed_oss", "cohere", "cohere2", "exaone4"),
    *("starcoder2", "ernie4_5", "nemotron", "phi", "glm", "glm4", "arcee", "helium"),
    *("qwen3_moe", "qwen2_moe", "mixtral", "glm4_moe", "deepseek_v3"),
)
"""`model_type` of what can be a teacher."""

_NOT_COVERED = {
    "gpt_oss": "its attention has sinks, and its weights are of 4 bits",
    "lfm2": "it has convolutions between its layers",
    "llama4": "its router and its attention have kinds of their own",
    "qwen3_5_text": "most of its attention is linear, by gated delta rules",
    "qwen3_next": "most of its attention is linear, by gated delta rules",
}
_DESCRIPTIONS = ("*.json", "*.model", "tokenizer*", "*.txt", "*.jinja")
_WEIGHTS = "*.safetensors"
_OTHER_FORMATS = ["*/*", "consolidated*"]
"""In folders, and Mistral's own: the same weights once more, for other programs."""


def model_folder(
    name: str, revision: str | None, setting: str, *, with_weights: bool = True
) -> Path:
    """Folder of a model: `name` itself, or the local copy of a Hub repository.

    Args:
        name: folder or Hub id.
        revision: on the Hub.
        setting: where the user wrote it, for the message.
        with_weights: whether they are fetched too.

    Raises:
        ValueError: if it is neither.
    """
    folder = at_home(name)
    if folder.is_dir():
        return folder
    check_hub_id(name, setting)
    try:
        return _download(name, revision, with_weights)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{setting}: {name!r} is not a folder here, and the Hub did not provide it: {reason}"
        ) from None


def check_hub_id(name: str, setting: str) -> None:
    """Refuse what can only be meant as a folder here, before the Hub is asked for it.

    Args:
        name: which is no folder here.
        setting: where the user wrote it, for the message.

    Raises:
        ValueError: if it has not the form `owner/name`, or a folder `owner` is here.
    """
    folder = at_home(name)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or folder.parent.is_dir():
        raise ValueError(f"{setting}: there is no folder {name!r}")


@functools.cache
def _download(name: str, revision: str | None, with_weights: bool) -> Path:
    """Fetch it once a process.

    Ranks of a node wait for each other at the Hub cache's locks, and a branch cannot move between
    two calls.
    """
    wanted = [*_DESCRIPTIONS, *([_WEIGHTS] if with_weights else [])]
    return Path(
        snapshot_download(
            name, revision=revision, allow_patterns=wanted, ignore_patterns=_OTHER_FORMATS
        )
    )


def read_model_config(folder: Path, setting: str) -> PretrainedConfig:
    """The `config.json` of a model that is understood.

    Raises:
        ValueError: if there is none, it cannot be read, its family is not understood, or an entry
            can be neither honoured nor left out.
    """
    return model_config(read_entries(folder, setting), setting, str(folder / CONFIG_FILE))


def model_config(entries: dict[str, Any], setting: str, source: str) -> PretrainedConfig:
    """What transformers makes of the entries of a `config.json`.

    Args:
        entries: by name.
        setting: where the user named the model, for the message.
        source: where the entries stand, for the message.

    Raises:
        ValueError: see `read_model_config`.
    """
    if (family := entries["model_type"]) not in FAMILIES:
        raise ValueError(
            f"{setting}: architecture {family!r} is not supported{_reason(entries)}; these are: "
            f"{', '.join(FAMILIES)}. Any model can teach by the text that it writes: let another "
            "program write it, and train on that with loss.objective: cross_entropy"
        )
    try:
        return to_config(entries)
    except ValueError as error:
        raise ValueError(f"{setting}: {source}: {error}") from None


def _reason(entries: dict[str, Any]) -> str:
    """Why a family is not supported, where that is known."""
    family = entries["model_type"]
    if family in _NOT_COVERED:
        return f" ({_NOT_COVERED[family]})"
    if family in CONFIG_MAPPING:
        return ""
    written_by = entries.get("transformers_version")
    by = f", config.json was written by {written_by}" if written_by else ""
    return f" (the installed transformers {transformers.__version__} does not know it{by})"


def check_student(config: PretrainedConfig, setting: str) -> None:
    """Refuse a student of a family that can only teach.

    Raises:
        ValueError: naming those that can learn.
    """
    if config.model_type not in STUDENTS:
        raise ValueError(
            f"{setting}: {config.model_type!r} can be a teacher, but not a student; these can: "
            f"{', '.join(STUDENTS)}"
        )


def logit_softcap(config: PretrainedConfig) -> float | None:
    """Gemma 2's bound on final logits, cap·tanh(z / cap)."""
    cap: float | None = getattr(config, "final_logit_softcapping", None)
    return cap


def logit_scale(config: PretrainedConfig) -> float:
    """What logits are multiplied with, before any bound: Cohere's and Granite's."""
    if config.model_type == "granite":
        return 1.0 / float(config.logits_scaling)
    return float(getattr(config, "logit_scale", None) or 1.0)


def attention_for(config: PretrainedConfig, wanted: str) -> str:
    """The attention implementation to use: SDPA would drop Gemma 2's soft cap on scores."""
    soft_capped = getattr(config, "attn_logit_softcapping", None) is not None
    return "eager" if soft_capped and wanted == "sdpa" else wanted

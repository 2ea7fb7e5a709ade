"""Writing a model's folder so that every version of transformers, and every reader, can use it."""

import json
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel

from taidscale.durable import replace_file
from taidscale.models.config_file import CONFIG_FILE
from taidscale.models.rope import plain_rope


def save_config(config: PretrainedConfig, folder: Path) -> None:
    """Write config.json, with the one spelling of RoPE that all versions read.

    Raises:
        OSError: if it cannot be written.
    """
    config.save_pretrained(folder)
    _spell_rope(folder)


def save_model(model: PreTrainedModel, folder: Path, max_shard_size: str = "5GB") -> None:
    """Write config.json and safetensors files, readable by whom the umask lets read.

    Args:
        model: to write.
        folder: is made.
        max_shard_size: of one weight file, as `save_pretrained` takes it.

    Raises:
        OSError: if it cannot be written.
    """
    model.save_pretrained(folder, safe_serialization=True, max_shard_size=max_shard_size)
    _spell_rope(folder)
    mode = (folder / CONFIG_FILE).stat().st_mode & 0o777
    for file in folder.glob("*.safetensors"):
        file.chmod(mode)  # safetensors lets only the owner read


def _spell_rope(folder: Path) -> None:
    """Turn the spelling of transformers 5, if it wrote the folder's config.json, into that of 4."""
    path = folder / CONFIG_FILE
    entries = json.loads(path.read_text(encoding="utf-8"))
    if "rope_parameters" not in entries:
        return
    replace_file(path, json.dumps(plain_rope(entries), indent=2, sort_keys=True) + "\n")

"""Whether a folder may be published: a whole model, and nothing besides that nobody should see."""

import json
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError, safe_open

from taidscale.models.config_file import CONFIG_FILE
from taidscale.models.weights import find_weights
from taidscale.publishing.credentials import find_credentials

CARD = "README.md"
MAX_OTHER_BYTES = 20 * 2**20
"""Of a file that is neither weights nor tokenizer; pictures and texts are smaller."""
MAX_NAMED = 8

_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.json")
_PRIVATE_FILES = (
    *("*.key", "*.pem", "*.p12", "*.pfx", ".env", ".env.*", "*.env", "id_rsa*"),
    *("id_dsa*", "id_ecdsa*", "id_ed25519*", "*.ppk", "*.jks", "*.keystore", "*.kdbx"),
    *(".netrc", "_netrc", ".npmrc", ".pypirc", ".git-credentials", "kaggle.json"),
    *("token", "stored_tokens", "credentials*", "*secret*"),
)
_PRIVATE_FOLDERS = (
    *(".git", ".ssh", ".aws", ".azure", ".kube", ".docker", ".gnupg", ".config", ".cache"),
    *("wandb", "__pycache__", ".ipynb_checkpoints"),
)


def check_folder(folder: Path) -> list[Path]:
    """The files of a folder that may be published, by name.

    Raises:
        ValueError: with all that is missing, damaged or private, a line each.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; taidscale export writes one")
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    described = _json_problems(folder)
    # How weights are stored stands in config.json.
    readable = not any(said.startswith(f"{folder / CONFIG_FILE} ") for said in described)
    problems = [
        *(_weight_problems(folder, files) if readable else []),
        *described,
        *(problem for path in files for problem in _privacy_problems(folder, path)),
    ]
    if len(problems) > MAX_NAMED:
        problems[MAX_NAMED:] = [f"and {len(problems) - MAX_NAMED} problems more"]
    if problems:
        raise ValueError("\n  ".join(problems))
    return files


def _weight_problems(folder: Path, files: list[Path]) -> list[str]:
    """What is missing or cannot be read; files of weights that the model does not load."""
    try:
        weights = find_weights(folder, "weights")
    except ValueError as error:
        return [str(error)]
    named = {folder / name for name in weights.file_of.values()}
    return [
        f"{path} holds weights that the model does not load: remove it"
        for path in files
        if path.suffix in (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5")
        and path not in named
    ]


def _json_problems(folder: Path) -> list[str]:
    """What `transformers` reads first."""
    problems = []
    for name, entry in ((CONFIG_FILE, "model_type"), ("tokenizer_config.json", None)):
        path = folder / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problems.append(f"{path} is missing or damaged ({error}); export again")
            continue
        if not isinstance(content, dict) or (entry and entry not in content):
            problems.append(f"{path} names no {entry or 'settings'}; export again")
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZERS):
        problems.append(f"{folder} holds no tokenizer ({', '.join(_TOKENIZERS)}); export again")
    return problems


def _privacy_problems(folder: Path, path: Path) -> list[str]:
    """Why a file should not be seen by others, or is too big for what it can be."""
    inside = path.relative_to(folder)
    if not path.is_file():
        return [f"{path} is a broken link or no file: remove it"]
    if parent := next((part for part in inside.parts[:-1] if part in _PRIVATE_FOLDERS), None):
        return [f"{folder / parent}/ is no part of a model: remove it"]
    if any(fnmatch(path.name.lower(), pattern) for pattern in _PRIVATE_FILES):
        return [f"{path} looks like a secret: remove it"]
    if path.suffix == ".safetensors":
        content = json.dumps(_notes(path)).encode()
    else:
        is_model = path.name.endswith(".index.json") or any(
            fnmatch(path.name, name) for name in _TOKENIZERS
        )
        size = path.stat().st_size
        if size > MAX_OTHER_BYTES and not is_model:
            return [f"{path} has {size / 1e6:,.1f} MB and is no part of a model: remove it"]
        content = path.read_bytes()
    return [
        f"{path}, line {line}, holds {kind}: remove it, and revoke it if others may have seen it"
        for line, kind in find_credentials(content)
    ]


def _notes(path: Path) -> dict[str, str]:
    """What a file of weights says besides; nothing where it is damaged, which is said elsewhere."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}

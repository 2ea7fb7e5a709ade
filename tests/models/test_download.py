"""Of a Hub repository only the files that are needed come."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.publishing.hub_requests import READER, git_hash
from tests.publishing.hub_server import HubServer

WEIGHTS = {
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
}
DESCRIPTIONS = {
    *("config.json", "generation_config.json", "model.safetensors.index.json", "params.json"),
    *("special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer.model.v3"),
    *("tokenizer_config.json", "chat_template.jinja", "merges.txt"),
}
OTHERS = {
    *("README.md", "consolidated.safetensors", "consolidated-00001-of-00002.safetensors"),
    *("original/model.safetensors", "original/params.json", "onnx/config.json"),
    *("pytorch_model.bin", "consolidated.00.pth", "model.gguf", "runs/tokenizer.json"),
    "consolidated.safetensors.index.json",
}


@pytest.mark.parametrize("with_weights", [True, False])
def test_mistral_repository(with_weights: bool, tmp_path: Path) -> None:
    """In a process of its own: the client reads where the Hub is when it is imported."""
    files = {}
    with HubServer() as hub:
        for path in WEIGHTS | DESCRIPTIONS | OTHERS:
            key = git_hash(path.encode())
            hub.objects[key] = path.encode()
            files[path] = (key, False)
        hub.add_repo("mistral/model", private=False).commit("main", files)
        code = "from taidscale.models.families import model_folder; "
        code += f"print(model_folder('mistral/model', None, 's', with_weights={with_weights}))"
        there = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **there, "HF_TOKEN": READER},
            check=True,
            capture_output=True,
            text=True,
        )
    folder = Path(done.stdout.splitlines()[-1])
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == DESCRIPTIONS | (WEIGHTS if with_weights else set())

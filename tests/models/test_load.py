"""Tensors of files and of the model correspond one to one, or the difference is named."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from taidscale.models.families import FAMILIES, read_model_config
from taidscale.models.load import check_weights
from taidscale.models.weights import find_weights
from tests.tiny_models import save_tiny_model

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
NORM = "model.layers.1.input_layernorm.weight"


def save_single(folder: Path, family: str, *, tied: bool) -> None:
    """A model in one file, which is easy to edit."""
    save_tiny_model(folder, family, vocab_size=20, tied=tied)
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        tensors |= load_file(path)
        path.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def edit(folder: Path, **tensors: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    found = load_file(path)
    for name, tensor in tensors.items():
        found.pop(name, None)
        if tensor is not None:
            found[name] = tensor
    save_file(found, path, {"format": "pt"})


def check(folder: Path) -> None:
    config = read_model_config(folder, "teacher.model")
    check_weights(config, find_weights(folder, "teacher.model"), "teacher.model")


def embedding(folder: Path) -> torch.Tensor:
    return load_file(folder / "model.safetensors")[EMBEDDING]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_models_pass(family: str, tied: bool, tmp_path: Path) -> None:
    save_single(tmp_path, family, tied=tied)
    before = torch.get_rng_state()
    check(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.layers.0.self_attn.q_proj.bias", "would not use"),
        ("model.layers.2.input_layernorm.weight", "would not use"),
        ("model.layers.0.mlp.up_proj.weight_scale", "would not use"),
        ("v_head.weight", "take them out of the files"),
    ],
)
def test_tensors_that_nobody_would_read(name: str, says: str, tmp_path: Path) -> None:
    """transformers warns at most; here the model would be another one than the files hold."""
    save_single(tmp_path, "qwen3", tied=True)
    edit(tmp_path, **{name: torch.ones(16)})
    wanted = rf"^teacher.model: {re.escape(str(tmp_path))}: .*{re.escape(name)}"
    with pytest.raises(ValueError, match=wanted if "scale" in name else f"{wanted}.*{says}"):
        check(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"),
        *("model.layers.0.self_attn.k_scale", "model.layers.1.mlp.up_proj.input_scale"),
    ],
)
def test_tensors_without_use_are_known(name: str, tmp_path: Path) -> None:
    save_single(tmp_path, "llama", tied=False)
    count = find_weights(tmp_path, "m").count()
    edit(tmp_path, **{name: torch.ones(2)})
    check(tmp_path)
    assert find_weights(tmp_path, "m").count() == count


def test_missing_and_misshapen_tensors(tmp_path: Path) -> None:
    save_single(tmp_path, "llama", tied=False)
    edit(tmp_path, **{NORM: torch.ones(15)})
    with pytest.raises(ValueError, match=rf"{re.escape(NORM)} is \(15,\), .* implies \(16,\)"):
        check(tmp_path)
    edit(tmp_path, **{NORM: None, HEAD: None})
    with pytest.raises(ValueError, match=rf"the weights lack {HEAD}, {re.escape(NORM)}, which"):
        check(tmp_path)


def test_head_of_a_tied_model(tmp_path: Path) -> None:
    """Where it is stored as well, it must be the embedding: transformers would drop it."""
    save_single(tmp_path, "llama", tied=True)
    edit(tmp_path, **{HEAD: embedding(tmp_path).clone()})
    check(tmp_path)
    other = embedding(tmp_path).clone()
    other[-1, -1] += 0.5
    for head in (other, other[:-1].clone()):
        edit(tmp_path, **{HEAD: head})
        with pytest.raises(ValueError, match="says tie_word_embeddings: true, but the weights"):
            check(tmp_path)


def test_causal_masks_of_old_gpt_neox_files_are_no_weights(tmp_path: Path) -> None:
    """Pythia's files hold them, as bytes and as a number of each layer."""
    save_tiny_model(tmp_path, "gpt_neox", vocab_size=50)
    tensors = {}
    for path in tmp_path.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    (tmp_path / "model.safetensors.index.json").unlink(missing_ok=True)
    tensors["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    tensors["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = read_model_config(tmp_path, "teacher.model")
    check_weights(config, find_weights(tmp_path, "teacher.model"), "teacher.model")

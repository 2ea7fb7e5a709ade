"""Text models inside models that see images: Gemma 3 from 4B on, Mistral Small 3.1 and later."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from taidscale.models.families import read_model_config
from taidscale.models.load import check_weights, model_from_files
from taidscale.models.weights import find_weights

VOCABULARY = 60
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def save_wrapper(folder: Path, family: str) -> Any:
    """A random model with its eyes, as transformers saves it."""
    torch.manual_seed(0)
    extra = {"mm_tokens_per_image": 4} if family == "gemma3" else {"image_token_index": 10}
    vision = {**VISION, "model_type": "siglip_vision_model" if family == "gemma3" else "pixtral"}
    config = AutoConfig.for_model(
        family,
        text_config={
            **TEXT,
            **({"model_type": "mistral"} if family == "mistral3" else {"sliding_window": 4}),
        },
        vision_config=vision,
        **extra,
    )
    model = AutoModelForImageTextToText.from_config(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("spelling", ["as saved", "inside out"])
@pytest.mark.parametrize("family", ["gemma3", "mistral3"])
def test_the_text_model_is_read_alone(family: str, spelling: str, tmp_path: Path) -> None:
    whole = save_wrapper(tmp_path, family)
    if spelling == "inside out":  # as newer versions of transformers name their parts in memory
        rename(tmp_path)
    config = read_model_config(tmp_path, "teacher.model")
    weights = find_weights(tmp_path, "teacher.model")
    check_weights(config, weights, "teacher.model")
    assert not any("vision" in name or "projector" in name for name in weights.shapes)
    text = model_from_files(config, weights, torch.float32, "sdpa").eval()
    ids = torch.randint(11, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = (model(input_ids=ids).logits for model in (whole, text))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def rename(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = {}
    for name, tensor in load_file(path).items():
        new = name.replace("language_model.model.", "model.language_model.")
        tensors[new.replace("language_model.lm_head.", "lm_head.")] = tensor
    assert any(name.startswith("model.language_model.") for name in tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_wrapper_without_a_text_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gemma3"}')
    with pytest.raises(ValueError, match=r"^teacher.model: .*config.json holds no text_config"):
        read_model_config(tmp_path, "teacher.model")

"""8-bit floats are read with their scales, wherever slices cut the blocks; nothing else is cast."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from taidscale.models.families import read_model_config
from taidscale.models.load import check_weights, model_from_files
from taidscale.models.quantization import block_of
from taidscale.models.shape import model_shape
from taidscale.models.student import build_student
from taidscale.models.weights import find_weights
from tests.models.float8_files import FORMS, quantised, save_both
from tests.models.test_student import from_layers, pretrained
from tests.tiny_models import save_tiny_model

WEIGHT = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """With sizes that blocks do not divide."""
    folder = tmp_path / "model"
    save_tiny_model(folder, "qwen3", vocab_size=60, hidden_size=24, tied=False, head_dim=6)
    return folder


@pytest.mark.parametrize("scale_name", ["weight_scale_inv", "weight_scale"])
@pytest.mark.parametrize("form", FORMS)
def test_every_slice_equals_the_slice_of_the_whole(form: str, scale_name: str, model: Path) -> None:
    small, by_hand = save_both(model, form, lambda name: "norm" not in name, scale_name)
    weights, expected = find_weights(small, "m"), find_weights(by_hand, "m")
    rows, columns = expected.shapes[WEIGHT]
    whole = expected.read(WEIGHT)
    assert torch.equal(weights.read(WEIGHT), whole)
    for dim, size in ((0, rows), (1, columns)):
        for start in range(0, size, 3):
            for stop in (start, start + 1, min(start + 4, size), size):
                part = weights.read(WEIGHT, slice(start, stop), dim)
                right = whole[start:stop] if dim == 0 else whole[:, start:stop]
                assert part.dtype == torch.float32
                assert torch.equal(part, right), (dim, start, stop)
    for name in expected.file_of:
        assert torch.equal(weights.read(name, slice(2, 7)), expected.read(name, slice(2, 7))), name


def test_scales_of_eight_bits(tmp_path: Path) -> None:
    """DeepSeek's newer files round the scales themselves to powers of two."""
    stored, _, _ = quantised(torch.randn(6, 4), "row")
    scale = torch.tensor([[0.5], [2.0], [1.0], [4.0], [0.25], [8.0]]).to(torch.float8_e8m0fnu)
    tensors = {"a.weight": stored, "a.weight_scale_inv": scale}
    save_file(tensors, tmp_path / "model.safetensors")
    found = find_weights(tmp_path, "m").read("a.weight")
    assert torch.equal(found, stored.float() * scale.float())


@pytest.mark.parametrize("form", FORMS)
def test_models_and_students_equal_the_dequantised_one(form: str, model: Path) -> None:
    small, by_hand = save_both(model, form)
    config = read_model_config(small, "m")
    assert not hasattr(config, "quantization_config")
    ids = torch.arange(40).view(2, 20)
    found, right = (
        model_from_files(config, find_weights(folder, "m"), torch.float32, "eager").eval()(ids)
        for folder in (small, by_hand)
    )
    assert torch.equal(found.logits, right.logits)
    for make in (pretrained, lambda folder, **kw: from_layers(folder, [1], **kw)):
        for precision in ("fp32", "bf16"):
            ours, theirs = (
                dict(build_student(make(folder, precision=precision)).named_parameters())
                for folder in (small, by_hand)
            )
            assert ours.keys() == theirs.keys()
            for name, parameter in ours.items():
                assert torch.equal(parameter, theirs[name]), name


def test_scales_are_no_parameters(model: Path) -> None:
    small, by_hand = save_both(model, "block")
    weights = find_weights(small, "m")
    assert weights.count() == find_weights(by_hand, "m").count()
    assert weights.count() == model_shape(read_model_config(small, "m")).num_parameters
    check_weights(read_model_config(small, "m"), weights, "m")


def edited(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Add or remove tensors of a single file, `__` standing for dots."""
    path = folder / "model.safetensors"
    found = load_file(path)
    for name, tensor in tensors.items():
        full_name = name.replace("__", ".")
        found.pop(full_name, None)
        if tensor is not None:
            found[full_name] = tensor
    save_file(found, path, {"format": "pt"})


UP, LAYER = "model__layers__0__mlp__up_proj__", "model__layers__0__"


@pytest.mark.parametrize(
    ("form", "change", "says"),
    [
        ("tensor", {UP + "weight_scale_inv": None}, "has 0 scales"),
        ("tensor", {UP + "weight_scale": torch.tensor(2.0)}, "has 2 scales"),
        ("tensor", {UP + "weight": torch.ones(48, 24)}, "stored as F32 beside"),
        ("tensor", {UP + "weight": torch.ones(48, 24, dtype=torch.int8)}, "is stored as I8"),
        ("tensor", {UP + "qweight": torch.ones(3, 24, dtype=torch.int32)}, "is stored as I32"),
        ("tensor", {UP + "weight_packed": torch.ones(48, 12).byte()}, "is stored as U8"),
        ("tensor", {LAYER + "input_layernorm__weight": torch.ones(24).bool()}, "stored as BOOL"),
        (
            "tensor",
            {UP + "weight_scale_inv": torch.ones(10, 4)},
            "no weight_block_size in config.json",
        ),
        ("block", {UP + "weight_scale_inv": torch.ones(10, 3)}, "blocks of [5, 7] needs [10, 4]"),
        (
            "tensor",
            {
                LAYER + "input_layernorm__weight": torch.ones(24).to(torch.float8_e4m3fn),
                LAYER + "input_layernorm__weight_scale": torch.ones(24),
            },
            "for a weight of [24]",
        ),
    ],
    ids=[
        *("no scale", "two scales", "float with scale", "int8", "gptq", "packed", "bool"),
        *("no block size", "wrong blocks", "one dimension"),
    ],
)
def test_what_cannot_be_read_is_refused(
    form: str, change: dict[str, Any], says: str, model: Path
) -> None:
    small, _ = save_both(model, form)
    edited(small, **change)
    wanted = rf"^teacher.model: {re.escape(str(small))}: .*{re.escape(says)}"
    with pytest.raises(ValueError, match=wanted):
        find_weights(small, "teacher.model")


def test_weights_of_a_refused_method(model: Path) -> None:
    path = model / "config.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps({**entries, "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(ValueError, match="quant_method 'awq'"):
        find_weights(model, "teacher.model")


@pytest.mark.parametrize(
    ("settings", "block"),
    [
        (None, None),
        ({"quant_method": "fp8"}, None),
        ({"weight_block_size": [128, 64]}, (128, 64)),
        ({"config_groups": {"group_0": {"weights": {"block_structure": [128, 128]}}}}, (128, 128)),
        ({"config_groups": {"group_0": {"weights": {"strategy": "channel"}}}}, None),
        ({"config_groups": {"group_0": {"weights": None}}}, None),
    ],
    ids=str,
)
def test_block_sizes(settings: Any, block: tuple[int, int] | None) -> None:
    assert block_of(settings) == block


@pytest.mark.parametrize("sizes", [[128], 128, [0, 128], ["128", "128"]], ids=str)
def test_block_sizes_that_are_none(sizes: Any) -> None:
    with pytest.raises(ValueError, match="has blocks of"):
        block_of({"weight_block_size": sizes})

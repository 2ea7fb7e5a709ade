"""Tensors and slices out of safetensors folders, and what is said of damaged ones."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from taidscale.models.weights import find_weights
from tests.tiny_models import save_tiny_model

INDEX = "model.safetensors.index.json"


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(7, 5, generator=generator),
        "b.weight": torch.randn(6, 4, generator=generator).bfloat16(),
        "b.bias": torch.randn(6, generator=generator),
    }


@pytest.fixture
def single(tmp_path: Path) -> Path:
    save_file(tensors(), tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A model as transformers writes it, in several files."""
    save_tiny_model(tmp_path, "llama", vocab_size=300)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    return tmp_path


def test_single_file(single: Path) -> None:
    weights = find_weights(single, "teacher.model")
    assert set(weights.file_of) == set(tensors())
    assert "b.bias" in weights
    assert "c.bias" not in weights
    for name, tensor in tensors().items():
        found = weights.read(name)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)


def test_each_file_is_said_once(sharded: Path, caplog: pytest.LogCaptureFixture) -> None:
    """So that nobody looks at a silent console while a big teacher is read."""
    caplog.set_level("INFO", "taidscale")
    weights = find_weights(sharded, "teacher.model")
    for name in (*weights.file_of, *weights.file_of):
        weights.read(name)
    files = list(dict.fromkeys(weights.file_of.values()))
    assert caplog.messages == [
        f"reading {sharded / file}, file {number} of {len(files)}"
        for number, file in enumerate(files, 1)
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["a.weight", "b.weight"])
def test_what_is_not_finite_is_named(tmp_path: Path, name: str, value: float) -> None:
    """A teacher with it would have every step of a run skipped."""
    broken = tensors()
    broken[name].view(-1)[3] = value
    save_file(broken, tmp_path / "model.safetensors")
    weights = find_weights(tmp_path, "teacher.model")
    for rows in (None, slice(0, 2)):
        with pytest.raises(ValueError, match=f"model.safetensors: '{name}' holds values that are"):
            weights.read(name, rows)
    weights.read(name, slice(4, 6))
    weights.read("b.bias")


def test_sharded(sharded: Path) -> None:
    weights = find_weights(sharded, "teacher.model")
    model = AutoModelForCausalLM.from_pretrained(sharded)
    parameters = dict(model.named_parameters())
    assert set(weights.file_of) == set(parameters)
    assert len(set(weights.file_of.values())) > 2
    for name, parameter in parameters.items():
        assert torch.equal(weights.read(name), parameter.detach())


@pytest.mark.parametrize(
    "part", [slice(0, 2), slice(2, 5), slice(3, 4), slice(0, None), slice(2, 2)], ids=str
)
def test_slices_of_both_dimensions(single: Path, part: slice) -> None:
    weights = find_weights(single, "teacher.model")
    for name, tensor in tensors().items():
        assert torch.equal(weights.read(name, part), tensor[part])
        if tensor.ndim == 2:
            assert torch.equal(weights.read(name, part, dim=1), tensor[:, part])


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    wanted = rf"^teacher\.model: {re.escape(str(tmp_path))} holds no safetensors weights"
    with pytest.raises(ValueError, match=wanted):
        find_weights(tmp_path, "teacher.model")


def test_unknown_tensor(single: Path) -> None:
    with pytest.raises(ValueError, match=r"hold no tensor 'c.bias'"):
        find_weights(single, "teacher.model").read("c.bias")


@pytest.mark.parametrize("missing_bytes", [1, 100, "header"])
def test_truncated_single_file(single: Path, missing_bytes: int | str) -> None:
    path = single / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:4] if missing_bytes == "header" else content[: -int(missing_bytes)])
    wanted = rf"^student\.init\.model: {re.escape(str(path))} is missing or truncated"
    with pytest.raises(ValueError, match=wanted):
        find_weights(single, "student.init.model")


def test_truncated_shard(sharded: Path) -> None:
    path = sorted(sharded.glob("model-*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{re.escape(path.name)} is missing or truncated"):
        find_weights(sharded, "teacher.model")


def test_missing_shard(sharded: Path) -> None:
    path = sorted(sharded.glob("model-*.safetensors"))[-1]
    path.unlink()
    with pytest.raises(ValueError, match=rf"{re.escape(path.name)} is missing or truncated"):
        find_weights(sharded, "teacher.model")


@pytest.mark.parametrize("content", ['{"weight_map": {"a"', "{}", "[]"])
def test_damaged_index(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    with pytest.raises(ValueError, match=rf"teacher\.model: .*{re.escape(INDEX)}"):
        find_weights(sharded, "teacher.model")


def test_two_sets_of_weights(sharded: Path) -> None:
    """transformers would load the single file, whatever the index names."""
    find_weights(sharded, "teacher.model")
    save_file({"a.weight": torch.ones(2)}, sharded / "model.safetensors")
    wanted = (
        rf"{re.escape(str(sharded))} holds two sets of weights, model.safetensors and .*{INDEX}"
    )
    with pytest.raises(ValueError, match=rf"^teacher\.model: {wanted}.*; remove the one"):
        find_weights(sharded, "teacher.model")


def test_index_that_names_the_single_file(single: Path) -> None:
    weight_map = dict.fromkeys(tensors(), "model.safetensors")
    (single / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert find_weights(single, "m").file_of == weight_map


@pytest.mark.parametrize("name", ["consolidated.safetensors", "consolidated.00.pth"])
def test_other_formats_beside_are_not_looked_at(single: Path, name: str) -> None:
    """Mistral's own files, beside those of transformers."""
    (single / name).write_bytes(b"no safetensors")
    assert set(find_weights(single, "m").file_of) == set(tensors())


def test_index_of_other_files(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    file = next(iter(index["weight_map"].values()))
    index["weight_map"]["a.weight"] = file
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"{file} holds no tensor 'a.weight', which {INDEX} says"):
        find_weights(sharded, "teacher.model")


@pytest.mark.parametrize("elsewhere", [True, False])
def test_tensor_that_the_index_does_not_place_there(sharded: Path, elsewhere: bool) -> None:
    """transformers would load it, over the one that the index names."""
    index = json.loads((sharded / INDEX).read_text())
    files = list(index["weight_map"].values())
    name, file = next(pair for pair in index["weight_map"].items() if files.count(pair[1]) > 1)
    if elsewhere:
        other = next(other for other in files if other != file)
        found = {**load_file(sharded / other), name: torch.ones(3)}
        save_file(found, sharded / other)
        file = other
    else:
        del index["weight_map"][name]
        (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"{file} holds '{name}', which {INDEX} does not name"):
        find_weights(sharded, "teacher.model")


@pytest.mark.parametrize("name", ["../model.safetensors", "/model.safetensors", "a/b.safetensors"])
def test_index_that_leaves_the_folder(single: Path, name: str) -> None:
    (single / "in").mkdir()
    (single / "in" / INDEX).write_text(json.dumps({"weight_map": {"a.weight": name}}))
    with pytest.raises(ValueError, match=rf"names '{re.escape(name)}', which is no file beside it"):
        find_weights(single / "in", "teacher.model")


def test_adapter(single: Path) -> None:
    """transformers would load another model, and the adapter into it."""
    (single / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds an adapter .* merge it"):
        find_weights(single, "student.init.model")


def test_file_lost_or_cut_after_the_check(single: Path) -> None:
    weights = find_weights(single, "teacher.model")
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: cannot read 'a.weight'"):
        weights.read("a.weight")
    path.unlink()
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: cannot read 'a.weight'"):
        weights.read("a.weight")

"""The student's initial weights from each source, and which of them decay."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from taidscale.config.schema import RunConfig
from taidscale.models.student import build_student, student_config, trainable_groups
from tests.tiny_models import save_tiny_model

MODELS = [("llama", False), ("qwen2", True), ("qwen2", False), ("gemma2", True)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each model with 4 layers that differ."""
    folder = tmp_path_factory.mktemp("models")
    for family, tied in MODELS:
        save_tiny_model(
            folder / f"{family}-{tied}",
            family,
            vocab_size=64,
            hidden_size=32,
            tied=tied,
            num_hidden_layers=4,
            head_dim=8,
        )
    return folder


def run_config(init: dict[str, Any], teacher: Path | None = None, **settings: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run_dir": "run",
            "precision": "fp32",
            "total_steps": 1,
            "seq_len": 8,
            "micro_batch_size": 1,
            "global_batch_size": 1,
            "teacher": {"model": str(teacher)} if teacher else None,
            "student": {"init": init},
            "loss": {"objective": "cross_entropy"},
            "learning_rate": {"schedule": "constant", "peak": 1e-3},
            "data": {"streams": [{"local": "shards"}]},
            "checkpoint": {"every_steps": 1},
            **settings,
        }
    )


def pretrained(folder: Path, **settings: Any) -> RunConfig:
    return run_config({"source": "pretrained", "model": str(folder)}, **settings)


def fresh(folder: Path, overrides: dict[str, Any] | None = None, **settings: Any) -> RunConfig:
    init = {"source": "fresh", "config": str(folder), "overrides": overrides or {}}
    return run_config(init, **settings)


def from_layers(folder: Path, layers: list[int], **settings: Any) -> RunConfig:
    return run_config({"source": "teacher_layers", "layers": layers}, teacher=folder, **settings)


def load(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model.eval()(torch.arange(24).view(2, 12)).logits
    return output


def rope_frequencies(model: nn.Module) -> list[torch.Tensor]:
    found = [buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")]
    assert found
    return found


def assert_equal_models(model: nn.Module, other: nn.Module) -> None:
    ours, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        assert torch.equal(parameter, theirs[name]), name


@pytest.mark.parametrize(("family", "tied"), MODELS)
def test_pretrained(models: Path, family: str, tied: bool) -> None:
    folder = models / f"{family}-{tied}"
    reference = load(folder)
    model = build_student(pretrained(folder))
    assert_equal_models(model, reference)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    torch.testing.assert_close(logits(model), logits(reference), atol=1e-5, rtol=0)
    in_bf16 = build_student(pretrained(folder, precision="bf16"))
    assert_equal_models(in_bf16, reference.bfloat16())


def test_pretrained_weights_that_lack_a_tensor_are_an_error(tmp_path: Path) -> None:
    """transformers would make it up, and only say so."""
    save_tiny_model(tmp_path, "llama", vocab_size=32)
    index = tmp_path / "model.safetensors.index.json"
    tensors: dict[str, torch.Tensor] = {}
    for path in [*tmp_path.glob("model-*.safetensors")]:
        tensors |= load_file(path)
        path.unlink()
    index.unlink()
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        build_student(pretrained(tmp_path))


def test_truncated_weights_are_an_error(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, "llama", vocab_size=300)
    path = sorted(tmp_path.glob("model-*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"^student.init.model: .* is missing or truncated"):
        build_student(pretrained(tmp_path))


@pytest.mark.parametrize("layers", [[0, 1, 2, 3], [3, 1], [2], [0, 0, 3]], ids=str)
@pytest.mark.parametrize(("family", "tied"), MODELS)
def test_teacher_layers(models: Path, family: str, tied: bool, layers: list[int]) -> None:
    folder = models / f"{family}-{tied}"
    config = from_layers(folder, layers)
    model, teacher = build_student(config), load(folder)
    assert model.config.num_hidden_layers == len(model.model.layers) == len(layers)
    weights = dict(teacher.named_parameters())
    for name, parameter in model.named_parameters():
        source = name
        if name.startswith("model.layers."):
            _, _, index, rest = name.split(".", 3)
            source = f"model.layers.{layers[int(index)]}.{rest}"
        assert torch.equal(parameter, weights[source]), name
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    if family == "gemma2":  # sliding and full attention alternate
        kinds = [teacher.config.layer_types[layer] for layer in layers]
        assert student_config(config).layer_types == kinds
    if layers == [0, 1, 2, 3]:
        torch.testing.assert_close(logits(model), logits(teacher), atol=1e-5, rtol=0)


def test_teacher_layers_in_bf16(models: Path) -> None:
    model = build_student(from_layers(models / "llama-False", [1], precision="bf16"))
    wanted = load(models / "llama-False").model.layers[1].mlp.up_proj.weight.bfloat16()
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, wanted)


@pytest.mark.parametrize("layers", [[4], [0, 7]])
def test_layer_that_the_teacher_lacks(models: Path, layers: list[int]) -> None:
    wanted = f"student.init.layers: {max(layers)} is not a layer .* layers 0 to 3"
    with pytest.raises(ValueError, match=wanted):
        build_student(from_layers(models / "llama-False", layers))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("family", "tied"), MODELS)
def test_fresh(models: Path, family: str, tied: bool, precision: str) -> None:
    folder = models / f"{family}-{tied}"
    settings = {"num_hidden_layers": 3, "initializer_range": 0.07}
    model = build_student(fresh(folder, settings, precision=precision))
    assert len(model.model.layers) == 3
    assert {p.dtype for p in model.parameters()} == {
        torch.bfloat16 if precision == "bf16" else torch.float32
    }
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert float(parameter.detach().float().std()) == pytest.approx(0.07, rel=0.15), name
            assert abs(float(parameter.detach().float().mean())) < 0.01, name
    assert logits(model).float().isfinite().all()


@pytest.mark.parametrize("source", ["pretrained", "fresh", "teacher_layers"])
@pytest.mark.parametrize(("family", "tied"), MODELS)
def test_rope_frequencies_stay_float32(models: Path, family: str, tied: bool, source: str) -> None:
    folder = models / f"{family}-{tied}"
    match source:
        case "pretrained":
            config = pretrained(folder, precision="bf16")
        case "fresh":
            config = fresh(folder, precision="bf16")
        case _:
            config = from_layers(folder, [0], precision="bf16")
    ours, theirs = rope_frequencies(build_student(config)), rope_frequencies(load(folder))
    for found, wanted in zip(ours, theirs, strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)


def test_fresh_weights_depend_on_the_seed_alone(models: Path) -> None:
    folder = models / "qwen2-False"
    torch.manual_seed(1)
    first = build_student(fresh(folder, seed=3))
    torch.manual_seed(2)
    second = build_student(fresh(folder, seed=3))
    other = build_student(fresh(folder, seed=4))
    assert_equal_models(first, second)
    for name, parameter in first.named_parameters():
        if parameter.ndim == 2:
            assert not torch.equal(parameter, other.get_parameter(name)), name


@pytest.mark.parametrize("source", ["pretrained", "fresh", "teacher_layers"])
def test_global_random_state_is_untouched(models: Path, source: str) -> None:
    folder = models / "llama-False"
    config = {
        "pretrained": pretrained(folder),
        "fresh": fresh(folder),
        "teacher_layers": from_layers(folder, [1]),
    }[source]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build_student(config)
    assert torch.equal(torch.get_rng_state(), before)


def test_overrides(models: Path) -> None:
    settings = {"hidden_size": 48, "intermediate_size": 40, "tie_word_embeddings": True}
    model = build_student(fresh(models / "llama-False", settings))
    assert model.model.layers[0].mlp.up_proj.weight.shape == (40, 48)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("num_layers", [1, 6])
def test_number_of_layers_of_gemma2(models: Path, num_layers: int) -> None:
    """`layer_types` must follow, or the model has too few kinds or the wrong ones."""
    config = student_config(fresh(models / "gemma2-True", {"num_hidden_layers": num_layers}))
    reference = AutoConfig.for_model("gemma2", num_hidden_layers=num_layers)
    assert config.layer_types == reference.layer_types


def test_unknown_override(models: Path) -> None:
    with pytest.raises(ValueError, match=r"^student\.init\.overrides: hiden_size, layers is not"):
        build_student(fresh(models / "llama-False", {"layers": 3, "hiden_size": 3}))


def test_missing_folders_name_their_setting(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(ValueError, match=r"^student.init.model: there is no folder"):
        student_config(pretrained(absent))
    with pytest.raises(ValueError, match=r"^student.init.config: there is no folder"):
        student_config(fresh(absent))
    with pytest.raises(ValueError, match=r"^teacher.model: there is no folder"):
        student_config(from_layers(absent, [0]))


@pytest.mark.parametrize(("family", "tied"), MODELS)
def test_norms_and_biases_do_not_decay(models: Path, family: str, tied: bool) -> None:
    model = build_student(pretrained(models / f"{family}-{tied}"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying, others = trainable_groups(model, 0.3)
    assert decaying["weight_decay"] == 0.3
    assert others["weight_decay"] == 0.0
    decay = [names[id(p)] for p in decaying["params"]]
    rest = [names[id(p)] for p in others["params"]]
    assert sorted(decay + rest) == sorted(names.values())  # each once, a tied head too
    is_other = {name for name in names.values() if "norm" in name or name.endswith("bias")}
    assert set(rest) == is_other
    assert any(name.endswith("bias") for name in rest) == (family == "qwen2")


def test_frozen_parameters_are_in_no_group() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False))
    model[0].requires_grad_(False)
    (group,) = trainable_groups(model, 0.3)
    assert group == {"params": [model[1].weight], "weight_decay": 0.3}

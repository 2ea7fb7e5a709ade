"""An export is a folder that transformers loads by itself, or it is nothing at all."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from taidscale.checkpoint.export import ExportReport, export_hugging_face
from taidscale.models.families import read_model_config
from taidscale.models.save import save_config
from tests.models.rope_spellings import KINDS, THETA, older_entries, respell
from tests.tiny_models import save_byte_tokenizer, save_tiny_model

VOCAB_SIZE = 260
"""Of the student's head; the tokenizer has 257 entries."""


def make_student(folder: Path, family: str, *, tied: bool) -> dict[str, torch.Tensor]:
    """What a run keeps of its student in `folder`; and trained weights, as a checkpoint has them.

    In bf16 the weights would be others.
    """
    save_tiny_model(folder / "trained", family, vocab_size=VOCAB_SIZE, tied=tied)
    trained = AutoModelForCausalLM.from_pretrained(folder / "trained", dtype=torch.float32)
    # Tied weights stand there under both names.
    weights = {name: p.detach() for name, p in trained.named_parameters(remove_duplicate=False)}
    student = folder / "student"
    config = AutoConfig.from_pretrained(folder / "trained")
    config.dtype = torch.bfloat16  # whatever its type was on the Hub
    config.save_pretrained(student)
    save_byte_tokenizer(student)
    (student / "generation_config.json").write_text('{"temperature": 0.25, "do_sample": true}')
    return weights


def export(
    weights: dict[str, torch.Tensor], folder: Path, dtype: torch.dtype = torch.float32
) -> ExportReport:
    return export_hugging_face(
        weights,
        folder / "student",
        folder / "out",
        dtype=dtype,
        model_card="# A card\n",
        files={"curve.png": b"png"},
        max_shard_size="10KB",
    )


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.arange(0, VOCAB_SIZE, 7)[None]
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(ids).logits
    return logits.float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_reloads_with_the_same_logits(
    family: str, tied: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    weights = make_student(tmp_path, family, tied=tied)
    # From float32: the masters of a run in bf16.
    report = export(weights, tmp_path, dtype)
    out = tmp_path / "out"
    assert report.folder == out
    assert report.largest_difference == 0.0

    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "trained", dtype=torch.float32)
    exact = logits_of(trained)
    for parameter in trained.parameters():  # not the RoPE frequencies, which nobody trains
        parameter.data = parameter.data.to(dtype)
    expected = logits_of(trained)
    reloaded = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert reloaded.dtype == dtype
    assert torch.equal(logits_of(reloaded), expected)
    rounded = dtype == torch.bfloat16
    assert torch.equal(expected, exact) == (not rounded)
    assert (report.largest_rounding > 0) == rounded
    # By default transformers 4 widens to float32, transformers 5 does not.
    by_default = AutoModelForCausalLM.from_pretrained(out)
    assert torch.allclose(logits_of(by_default), exact, atol=0.1 if rounded else 0.0, rtol=0.0)

    config = json.loads((out / "config.json").read_text())
    assert config["vocab_size"] == VOCAB_SIZE
    assert config.get("tie_word_embeddings", True) == tied
    assert config["dtype"] == str(dtype).removeprefix("torch.")

    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 1
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    assert ("lm_head.weight" in tensors) != tied
    assert tensors.keys() - {"lm_head.weight"} == weights.keys() - {"lm_head.weight"}
    assert report.num_parameters == sum(tensor.numel() for tensor in tensors.values())
    assert report.num_bytes == sum(file.stat().st_size for file in files)
    assert not (tmp_path / "out.partial").exists()


def test_holds_more_than_weights(tmp_path: Path) -> None:
    weights = make_student(tmp_path, "llama", tied=True)
    (tmp_path / "out").mkdir()  # empty: may be used
    export(weights, tmp_path)
    out = tmp_path / "out"
    assert (out / "README.md").read_text() == "# A card\n"
    assert (out / "curve.png").read_bytes() == b"png"
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"temperature": 0.25, "do_sample": True}
    ours, theirs = (AutoTokenizer.from_pretrained(f) for f in (tmp_path / "student", out))
    assert theirs.get_vocab() == ours.get_vocab()
    assert theirs.eos_token == "<|end|>"
    assert theirs("a word")["input_ids"] == ours("a word")["input_ids"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_whom_the_umask_lets_read_can_read_all(umask: int, mode: int, tmp_path: Path) -> None:
    weights = make_student(tmp_path, "llama", tied=True)
    (tmp_path / "student" / "generation_config.json").chmod(0o600)
    before = os.umask(umask)
    try:
        export(weights, tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes == dict.fromkeys(modes, mode)
    assert any(name.endswith(".safetensors") for name in modes)
    assert "generation_config.json" in modes


@pytest.mark.parametrize("kind", KINDS)
def test_names_the_rope_that_was_trained_with(kind: str, tmp_path: Path) -> None:
    """Once, though the student came from a folder in the other version's spelling."""
    save_tiny_model(
        tmp_path / "trained", "llama", vocab_size=VOCAB_SIZE, **older_entries(kind, "llama")
    )
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "trained", dtype=torch.float32)
    respell(tmp_path / "trained", kind, "llama")
    save_config(read_model_config(tmp_path / "trained", "m"), tmp_path / "student")
    save_byte_tokenizer(tmp_path / "student")
    export({name: p.detach() for name, p in trained.named_parameters()}, tmp_path)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "rope_parameters" not in config
    assert (config["rope_theta"], bool(config["rope_scaling"])) == (THETA, kind != "default")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits_of(reloaded), logits_of(trained))


def test_student_of_two_ropes(tmp_path: Path) -> None:
    """As older runs have kept it."""
    weights = make_student(tmp_path, "llama", tied=True)
    path = tmp_path / "student" / "config.json"
    entries = json.loads(path.read_text())
    entries["rope_theta"] = 10000.0
    entries["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    path.write_text(json.dumps(entries))
    refuse(weights, tmp_path, r"rope_theta is 1000000\.0 in rope_parameters and 10000\.0 in config")


def test_student_without_generation_settings(tmp_path: Path) -> None:
    weights = make_student(tmp_path, "llama", tied=True)
    (tmp_path / "student" / "generation_config.json").unlink()
    export(weights, tmp_path)
    written = tmp_path / "out" / "generation_config.json"
    assert not written.exists() or "temperature" not in json.loads(written.read_text())


def test_masters_under_one_name_only(tmp_path: Path) -> None:
    weights = make_student(tmp_path, "llama", tied=True)
    weights.pop("lm_head.weight")
    export(weights, tmp_path)
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "trained", dtype=torch.float32)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits_of(reloaded), logits_of(trained))


# --- refusals -------------------------------------------------------------------------


def refuse(weights: dict[str, torch.Tensor], folder: Path, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        export(weights, folder)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_missing_tensor(tied: bool, tmp_path: Path) -> None:
    weights = make_student(tmp_path, "llama", tied=tied)
    weights.pop("model.norm.weight")
    refuse(weights, tmp_path, r"lacks \['model\.norm\.weight'\]")


def test_missing_head_of_an_untied_student(tmp_path: Path) -> None:
    weights = make_student(tmp_path, "llama", tied=False)
    weights.pop("lm_head.weight")
    refuse(weights, tmp_path, r"lacks \['lm_head\.weight'\]")


def test_unexpected_tensor(tmp_path: Path) -> None:
    weights = make_student(tmp_path, "llama", tied=True)
    weights["model.layers.2.mlp.up_proj.weight"] = torch.zeros(2, 2)
    refuse(weights, tmp_path, r"has \['model\.layers\.2\.mlp\.up_proj\.weight'\] besides")


def test_tensor_of_another_shape(tmp_path: Path) -> None:
    weights = make_student(tmp_path, "llama", tied=True)
    weights["model.norm.weight"] = torch.ones(17)
    refuse(weights, tmp_path, r"model\.norm\.weight")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_out_that_is_in_use(kind: str, tmp_path: Path) -> None:
    weights = make_student(tmp_path, "llama", tied=True)
    used = tmp_path / "out"
    if kind == "folder":
        used.mkdir()
        used = used / "precious"
    used.write_text("do not lose me")
    with pytest.raises(ValueError, match=r"out exists already; choose another folder"):
        export(weights, tmp_path)
    assert used.read_text() == "do not lose me"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"trained", "student", "out"}
    assert kind == "file" or [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]

"""What may be published: a whole model, and nothing that nobody should see."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from taidscale.publishing.folder import check_folder


def test_an_export_may_be_published(exported: Path) -> None:
    (exported / "LICENSE").write_text("Apache")
    (exported / "pictures").mkdir()
    (exported / "pictures" / "curve.png").write_bytes(b"\x89PNG\xff\xfe")
    names = [path.relative_to(exported).as_posix() for path in check_folder(exported)]
    assert {"LICENSE", "README.md", "config.json", "pictures/curve.png"} <= set(names)
    assert len([name for name in names if name.endswith(".safetensors")]) > 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (".env", "A=1", "looks like a secret"),
        ("server.key", "", "looks like a secret"),
        ("deep/id_rsa", "", "looks like a secret"),
        ("wandb/run-1/files/output.log", "", "exported/wandb/ is no part of a model"),
        (".git/config", "", r"exported/\.git/ is no part of a model"),
        (".pypirc", "", "looks like a secret"),
        (".kube/config", "", r"exported/\.kube/ is no part of a model"),
        ("optimizer.pt", "", "holds weights that the model does not load"),
        ("model.safetensors", "", "holds two sets of weights"),
        ("core", "0" * (21 * 2**20), r"has 22\.0 MB and is no part of a model"),
    ],
)
def test_what_does_not_belong_is_named(name: str, content: str, says: str, exported: Path) -> None:
    path = exported / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    with pytest.raises(ValueError, match=says) as error:
        check_folder(exported)
    assert len(str(error.value).splitlines()) == 1


def test_a_lost_tensor_is_named(exported: Path) -> None:
    file = max(exported.glob("*.safetensors"))
    tensors = load_file(file)
    lost = min(tensors)
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, file)
    with pytest.raises(ValueError, match=rf"{file.name} holds no tensor '{lost}', which"):
        check_folder(exported)


def test_a_truncated_file_is_named(exported: Path) -> None:
    file = max(exported.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=rf"{file.name} is missing or truncated"):
        check_folder(exported)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_what_a_model_needs_must_be_there(name: str, exported: Path) -> None:
    (exported / name).unlink()
    with pytest.raises(ValueError, match=r"export again"):
        check_folder(exported)


def test_all_problems_at_once(exported: Path) -> None:
    (exported / "config.json").write_text("{")
    (exported / ".env").touch()
    (exported / "tokenizer_config.json").write_text(json.dumps([]))
    (exported / "gone").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"config\.json is missing or damaged") as error:
        check_folder(exported)
    assert len(str(error.value).splitlines()) == 4


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a folder; taidscale export writes one"):
        check_folder(tmp_path / "none")

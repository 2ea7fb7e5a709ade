"""Which models are accepted, what is said of the others, and what is special about each."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, GPT2Config

from taidscale.models.families import (
    FAMILIES,
    attention_for,
    logit_softcap,
    model_folder,
    read_model_config,
)

SETTING = "teacher.model"


def architecture(family: str, **settings: Any) -> Any:
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
    return AutoConfig.for_model(family, **sizes, num_hidden_layers=3, **settings)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2"])
def test_supported_families_are_read(tmp_path: Path, family: str) -> None:
    architecture(family, vocab_size=77).save_pretrained(tmp_path)
    config = read_model_config(tmp_path, SETTING)
    assert (config.model_type, config.vocab_size, config.hidden_size) == (family, 77, 24)


def test_unsupported_architecture_names_those_that_work(tmp_path: Path) -> None:
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^teacher.model: architecture 'gpt2' is not") as caught:
        read_model_config(tmp_path, SETTING)
    for family in FAMILIES:
        assert family in str(caught.value)


def test_no_config(tmp_path: Path) -> None:
    wanted = f"^teacher.model: {re.escape(str(tmp_path))} holds no config.json"
    with pytest.raises(ValueError, match=wanted):
        read_model_config(tmp_path, SETTING)


@pytest.mark.parametrize(
    "content", ['{"model_type": "llama"', "{}", "[]", '{"model_type": null}', b"\xff{}"], ids=repr
)
def test_config_that_cannot_be_read(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"^teacher.model: cannot read {re.escape(str(path))}"):
        read_model_config(tmp_path, SETTING)


def test_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_folder(str(tmp_path), None, SETTING) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert model_folder(f"~/{tmp_path.name}", None, SETTING) == tmp_path
    monkeypatch.chdir(tmp_path.parent)
    assert model_folder(tmp_path.name, None, SETTING) == Path(tmp_path.name)


@pytest.mark.parametrize("name", ["/no/such/folder", "./absent", "absent", "a/b/c"])
def test_missing_folder(name: str) -> None:
    wanted = f"^student.init.model: there is no folder '{re.escape(name)}'"
    with pytest.raises(ValueError, match=wanted):
        model_folder(name, None, "student.init.model")


def test_missing_folder_beside_others_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="there is no folder 'models/absent'"):
        model_folder("models/absent", None, SETTING)


def test_hub_that_does_not_provide_it() -> None:
    """The Hub is off in tests (HF_HUB_OFFLINE), as it is on many nodes."""
    wanted = "^teacher.model: 'nobody/nothing' is not a folder here, and the Hub did not provide it"
    with pytest.raises(ValueError, match=wanted):
        model_folder("nobody/nothing", None, SETTING)


def test_gemma2_keeps_its_soft_caps() -> None:
    config = architecture("gemma2", final_logit_softcapping=12.5)
    assert logit_softcap(config) == 12.5
    assert attention_for(config, "sdpa") == "eager"
    assert attention_for(config, "flash_attention_2") == "flash_attention_2"
    without = architecture("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None)
    assert attention_for(without, "sdpa") == "sdpa"
    assert logit_softcap(without) is None


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gemma2"])
def test_the_others_have_none(family: str) -> None:
    config = architecture(family)
    assert logit_softcap(config) is None
    for wanted in ("sdpa", "eager"):
        assert attention_for(config, wanted) == wanted


def test_old_config_files_are_read(tmp_path: Path) -> None:
    """Without entries that came later, such as `layer_types` and `head_dim`."""
    entries = {"model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    assert read_model_config(tmp_path, SETTING).num_hidden_layers == 3

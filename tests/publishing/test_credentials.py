"""Keys of all kinds are found in a folder that is to be published, and nothing else is."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from taidscale.publishing.credentials import find_credentials
from taidscale.publishing.folder import check_folder

DIGITS = "0123456789abcdefABCDEF" * 5
# In two parts, so that no scanner of repositories takes them for real ones.
SECRETS = [
    ("Hugging Face token", "hf_" + DIGITS[:34]),
    ("Hugging Face token", "api_org_" + DIGITS[:34]),
    ("private key", "-----BEGIN " + "RSA PRIVATE KEY-----"),
    ("private key", "-----BEGIN " + "PRIVATE KEY-----"),
    ("private key", "-----BEGIN " + "OPENSSH PRIVATE KEY-----"),
    ("private key", "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----"),
    ("AWS key", "AKIA" + "IOSFODNN7EXAMPLE"),
    ("AWS key", "ASIA" + "IOSFODNN7EXAMPLE"),
    ("AWS secret", "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"),
    ("AWS secret", '"SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/' + 'bPxRfiCYEXAMPLEKEY"'),
    ("Weights & Biases key", "WANDB_API_KEY=" + "0123456789" * 4),
    ("Weights & Biases key", "machine api.wandb.ai login user password " + "0123456789" * 4),
    ("Weights & Biases key", "wandb_v1_" + DIGITS[:77]),
    ("OpenAI or Anthropic key", "sk-" + DIGITS[:48]),
    ("OpenAI or Anthropic key", "sk-proj-" + DIGITS[:60]),
    ("OpenAI or Anthropic key", "sk-ant-api03-" + DIGITS[:80]),
    ("GitHub token", "ghp_" + DIGITS[:36]),
    ("GitHub token", "github_pat_" + DIGITS[:22] + "_" + DIGITS[:59]),
    ("GitLab token", "glpat-" + DIGITS[:20]),
    ("Google key", "AIza" + DIGITS[:35]),
    ("Google service account", '{"type": ' + '"service_account"}'),
    ("Azure key", "AccountKey=" + DIGITS[:86] + "=="),
    ("Slack token", "xoxb-" + "123456789012-" + DIGITS[:24]),
    ("Slack token", "https://hooks.slack.com/services/" + "T01/B02/" + DIGITS[:24]),
    ("token of a package registry", "npm_" + DIGITS[:36]),
    ("token of a package registry", "pypi-" + "AgEIcHlwaS5vcmc" + DIGITS[:60]),
    ("signed web token", "eyJ" + DIGITS[:30] + ".eyJ" + DIGITS[:30] + "." + DIGITS[:43]),
]


@pytest.mark.parametrize(("kind", "secret"), SECRETS)
def test_file_line_and_kind_are_said_and_the_secret_is_not(
    kind: str, secret: str, exported: Path
) -> None:
    (exported / "notes.md").write_text(f"# Notes\n\nit is {secret}\n")
    with pytest.raises(ValueError, match=rf"notes\.md, line 3, holds an? {kind}: ") as error:
        check_folder(exported)
    (said,) = str(error.value).splitlines()
    assert secret not in said
    assert secret[-8:] not in said


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "a.png"]
)
def test_no_file_is_left_out(name: str, exported: Path) -> None:
    path, secret = exported / name, "ghp_" + DIGITS[:36]
    old = path.read_bytes() if path.exists() else b"\x89PNG\xff\xfe\0{"
    path.write_bytes(old.replace(b"{", b'{"x": "' + secret.encode() + b'", ', 1))
    with pytest.raises(ValueError, match=rf"{name}, line \d+, holds a GitHub token"):
        check_folder(exported)


def test_in_utf_16_and_in_the_notes_of_weights(exported: Path) -> None:
    secret = "ghp_" + DIGITS[:36]
    (exported / "notes.txt").write_text(f"\nkey={secret}", encoding="utf-16")
    weights = min(exported.glob("*.safetensors"))
    save_file(load_file(weights), weights, metadata={"format": "pt", "by": secret})
    with pytest.raises(ValueError, match=r"notes\.txt, line 2, holds a GitHub") as error:
        check_folder(exported)
    assert f"{weights.name}, line 1, holds a GitHub token" in str(error.value)


def test_texts_that_only_look_like_keys(exported: Path) -> None:
    (exported / "notes.md").write_text(
        "the task-specific-heads-of-risk-averse-models, sk-learn, sk-SK, hf_hub_download,\n"
        "commit 0123456789012345678901234567890123456789, wandb 0.20, AKIA, glpat-, ghp_,\n"
        "sha256:" + "0123456789abcdef" * 4 + "\n-----BEGIN PUBLIC KEY-----\n"
        "secret_key of a dictionary, AccountKey=..., eyJ.eyJ.x, xoxo-xoxo-kisses\n"
    )
    check_folder(exported)


def test_whole_vocabularies_hold_none(material: Path) -> None:
    files = [path for path in (material / "tokenizers").rglob("*") if path.is_file()]
    files += (material / "models").rglob("*.json")
    assert sum(path.stat().st_size for path in files) > 5_000_000
    found = {path.name: [*find_credentials(path.read_bytes())] for path in files}
    assert not any(found.values()), found

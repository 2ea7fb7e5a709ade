"""Publishing, as a user does it, on a Hub of our own; ended by force in between."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.publishing.exported import make_exported
from tests.publishing.hub_requests import WRITER, sha256
from tests.publishing.hub_server import HubServer, wait_for
from tests.tools.commands import expect_error, expect_success, start

REPO = "owner/small"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """For the commands that the test starts."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_TOKEN", WRITER)
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def pull(folder: Path) -> dict[str, bytes]:
    """What somebody else gets."""
    code = f"import huggingface_hub as h; h.snapshot_download({REPO!r}, local_dir='back')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    paths = (path for path in (folder / "back").iterdir() if path.is_file())
    return {path.name: path.read_bytes() for path in paths if path.name != ".gitattributes"}


def test_published_after_a_kill(hub: HubServer, tmp_path: Path) -> None:
    folder = make_exported(tmp_path / "out")
    weights = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    last = sha256(max(weights.values(), key=len))
    others = {sha256(content) for content in weights.values()} - {last}
    reached, ended = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        ended.wait(600)

    hub.faults = [("PUT", f"/storage/{last}/2", hold, 1)]
    (tmp_path / "RESULTS.md").write_text("# Tasks\n\nAll well.\n")
    command = ["out", REPO, "--evaluation", "RESULTS.md", "--language", "ja", "en"]
    first = start("publish.py", *command, folder=tmp_path)
    try:
        wait_for(lambda: reached.is_set() and others <= hub.objects.keys(), 600)
    finally:
        first.kill()
        first.communicate()
        ended.set()
    wait_for(lambda: hub.active == 0)
    assert list(hub.files_of(REPO)) == [".gitattributes"]
    before = dict(hub.received)

    said = expect_success(start("publish.py", *command, folder=tmp_path))
    for content in weights.values():
        sent = hub.received[sha256(content)] - before[sha256(content)]
        assert sent == (len(content) if sha256(content) == last else 0)
    assert hub.repos[REPO].private
    assert hub.repos[REPO].branches["main"] in said
    assert f"url        {hub.url}/{REPO}\n" in said
    card = (folder / "README.md").read_text()
    assert "Written by a person." in card
    assert "## Evaluation\n\n### Tasks\n\nAll well." in card
    assert "language:\n- ja\n- en\n" in card
    assert pull(tmp_path) == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_dry_run_touches_nothing(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_exported(tmp_path / "out")
    monkeypatch.delenv("HF_TOKEN")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    tool = start("publish.py", "out", REPO, "--dry-run", "--language", "ja", folder=tmp_path)
    said = expect_success(tool)
    assert hub.requests == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "(private), branch main" in said
    for name, content in before.items():
        line = f"{len(content):>15,}  {sha256(content)}  {name}\n"
        assert (line in said) == (name != "README.md"), name
    assert "language:\n- ja\n" in said.split("README.md:\n\n")[1]


def test_what_is_wrong_is_said_before_anything_is_sent(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_exported(tmp_path / "out")
    hub.add_repo("owner/seen", private=False)
    seen = start("publish.py", "out", "owner/seen", folder=tmp_path)
    ownerless = start("publish.py", "out", "small", folder=tmp_path)
    monkeypatch.delenv("HF_TOKEN")
    nobody = start("publish.py", "out", REPO, folder=tmp_path)
    expect_error(ownerless, r"REPO_ID: 'small' names no owner; write OWNER/small")
    expect_error(nobody, r"there is no Hugging Face token: run `hf auth login`, or set HF_TOKEN")
    expect_error(seen, r"owner/seen exists and is public, .* choose another name, or pass --public")
    assert not hub.received

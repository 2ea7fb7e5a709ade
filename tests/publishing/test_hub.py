"""A folder pushed to a Hub and pulled back; interrupted, refused, damaged on the way."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from taidscale.publishing.folder import check_folder
from taidscale.publishing.hub import Published, check_repo_id, hashed, publish
from tests.publishing.hub_requests import PART_BYTES, READER, WRITER, git_hash, sha256
from tests.publishing.hub_server import HubServer

REPO = "owner/small"


def push(
    folder: Path, hub: HubServer, *, token: str = WRITER, private: bool = True, branch: str = "main"
) -> Published:
    api = HfApi(endpoint=hub.url, token=token)
    additions = hashed(folder, check_folder(folder))
    return publish(additions, REPO, api, private=private, revision=branch, message="new")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def weights(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name.endswith(".safetensors")}


def test_all_files_are_there_under_one_commit(exported: Path, hub: HubServer) -> None:
    sizes = [len(content) for content in weights(exported).values()]
    assert min(sizes) < PART_BYTES < max(sizes), "one of both kinds of transfer is not tested"
    published = push(exported, hub)
    assert hub.repos[REPO].private
    assert len(hub.repos[REPO].commits) == 2
    assert published.commit == hub.repos[REPO].branches["main"]
    assert published.url == f"{hub.url}/{REPO}"
    files = contents(exported)
    assert (published.num_files, published.num_bytes) == (len(files), sum(map(len, files.values())))
    assert hub.files_of(REPO) == files | {".gitattributes": b"*.safetensors filter=lfs\n"}


def test_second_push_sends_nothing_and_changes_nothing(exported: Path, hub: HubServer) -> None:
    first = push(exported, hub)
    received = dict(hub.received)
    assert push(exported, hub).commit == first.commit
    assert hub.received == received


def test_cut_and_started_again_it_sends_only_what_is_missing(
    exported: Path, hub: HubServer
) -> None:
    """The connection is cut in the middle of one file, and stays down for it."""
    files = weights(exported)
    cut = max(files, key=lambda name: len(files[name]))
    oid = sha256(files[cut])
    hub.faults = [("PUT", f"/storage/{oid}/2", 0, 1000)]
    with pytest.raises(ValueError, match=r"the connection failed .* run the same command again"):
        push(exported, hub)
    assert list(hub.files_of(REPO)) == [".gitattributes"], "half of it is visible"
    finished = {sha256(content) for content in files.values()} & hub.objects.keys()
    assert finished
    assert oid not in finished
    before, hub.faults = dict(hub.received), []
    push(exported, hub)
    for content in files.values():
        sent = hub.received[sha256(content)] - before.get(sha256(content), 0)
        assert sent == (0 if sha256(content) in finished else len(content))
    assert hub.files_of(REPO).items() >= contents(exported).items()


@pytest.mark.parametrize("status", [0, 500, 503])
def test_short_trouble_is_overcome(status: int, exported: Path, hub: HubServer) -> None:
    hub.faults = [("PUT", "/storage/", status, 2)]
    push(exported, hub)
    assert hub.files_of(REPO).items() >= contents(exported).items()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (("GET", "whoami", 401, 1), r"refuses the token .*hf auth login"),
        (("POST", "batch", 503, 20), r"is not well \(HTTP 503 not today\).*run the same command"),
        (("POST", "commit", 500, 1), r"is not well .*nothing is visible yet: run the same"),
        (("POST", "commit", 0, 1), r"the connection failed .*run the same command again"),
        (("POST", "commit", 412, 1), r"somebody else has changed owner/small meanwhile"),
        (("POST", "repos/create", 403, 1), r"the token may not write to owner/small .*not today"),
        (("POST", "preupload", 418, 1), r"the Hub refuses this \(HTTP 418 not today\)"),
    ],
)
def test_long_trouble_is_one_line(
    fault: tuple[str, str, int, int], says: str, exported: Path, hub: HubServer
) -> None:
    hub.faults = [fault]
    with pytest.raises(ValueError, match=says) as error:
        push(exported, hub)
    assert "\n" not in str(error.value)
    assert "README.md" not in (hub.files_of(REPO) if REPO in hub.repos else {})
    hub.faults = []
    push(exported, hub)  # the same command again
    assert hub.files_of(REPO).items() >= contents(exported).items()


def test_wrong_and_weak_tokens(exported: Path, hub: HubServer) -> None:
    with pytest.raises(ValueError, match=r"refuses the token"):
        push(exported, hub, token="hf_nobody")
    with pytest.raises(ValueError, match=r"may not write to owner/small .*write access"):
        push(exported, hub, token=READER)
    assert not hub.repos


@pytest.mark.parametrize("there", [True, False])
def test_nobody_sees_what_should_be_private(there: bool, exported: Path, hub: HubServer) -> None:
    hub.add_repo(REPO, private=there)
    with pytest.raises(ValueError, match="is private: make" if there else "is public.*--public"):
        push(exported, hub, private=not there)
    assert not hub.received
    push(exported, hub, private=there)


def test_a_branch(exported: Path, hub: HubServer) -> None:
    published = push(exported, hub, branch="step-10")
    assert list(hub.files_of(REPO)) == [".gitattributes"]
    assert hub.files_of(REPO, "step-10").items() >= contents(exported).items()
    assert published.url.endswith("/tree/step-10")
    push(exported, hub, branch="step-10")


def test_weights_of_an_earlier_model_go(exported: Path, hub: HubServer) -> None:
    """transformers would load `model.safetensors` and not the new ones."""
    repo = hub.add_repo(REPO, private=True)
    hub.objects |= {sha256(b"old"): b"old", git_hash(b"mine"): b"mine"}
    old = {"model.safetensors": (sha256(b"old"), True), "notes.md": (git_hash(b"mine"), False)}
    repo.commit("main", repo.commits[repo.branches["main"]] | old)
    assert push(exported, hub).deleted == ["model.safetensors"]
    assert "model.safetensors" not in hub.files_of(REPO)
    assert hub.files_of(REPO)["notes.md"] == b"mine"


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("config.json", {"path": "other"}, "config.json is missing"),
        ("config.json", {"size": 3}, "config.json has 3 bytes there"),
        ("config.json", {"oid": "0" * 40}, "config.json has other content"),
        ("weights", {"lfs": {"oid": "0" * 64, "size": 1, "pointerSize": 1}}, "has SHA-256 000000"),
    ],
)
def test_what_the_hub_damages_is_found(
    file: str, change: dict[str, Any], says: str, exported: Path, hub: HubServer
) -> None:
    name = file if file == "config.json" else next(iter(weights(exported)))
    hub.changes = lambda entry: entry | change if entry["path"] == name else entry
    with pytest.raises(ValueError, match=rf"owner/small at \w+ is not what was sent: .*{says}"):
        push(exported, hub)


def test_names_that_the_hub_would_not_take() -> None:
    check_repo_id(REPO)
    for name, says in (("small", "write OWNER/small"), ("a/b/c", "not OWNER/NAME"), ("a/b--c", "")):
        with pytest.raises(ValueError, match=rf"REPO_ID: .*{says}"):
            check_repo_id(name)

"""A folder to a repository of the Hugging Face Hub: all of it, in one commit, or nothing.

One commit, because a repository with new weights beside an old config, or with half of the weights,
is loaded by somebody. It does not make an interrupted upload start over: files of git LFS are sent
before the commit and kept by their hash, so the same command sends only those that are not there
yet. A file that was cut is sent again from its beginning with the LFS protocol, whose parts are of
one attempt; with the Hub's xet storage, where the package hf_xet is installed, only what of it
is not there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from tqdm import tqdm

AGAIN = "run the same command again: what has arrived is not sent again"
_NETWORK = ("requests", "urllib3", "httpx")
"""Whose exceptions mean that the network failed: huggingface_hub went from one to another."""
WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".gguf")


@dataclass(frozen=True)
class Published:
    """What is on the Hub now."""

    url: str
    commit: str
    num_files: int
    num_bytes: int
    deleted: list[str]
    """Weights of an earlier model that were there."""


def check_repo_id(repo_id: str) -> None:
    """Refuse names that the Hub would not take.

    Raises:
        ValueError: if it is not OWNER/NAME.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"REPO_ID: {repo_id!r} is not OWNER/NAME: {error}") from None
    if "/" not in repo_id:
        raise ValueError(f"REPO_ID: {repo_id!r} names no owner; write OWNER/{repo_id}")


def hashed(folder: Path, files: list[Path]) -> list[CommitOperationAdd]:
    """Read every file once, for its size and SHA-256, with a bar where that takes long."""
    additions = []
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, unit="B", unit_scale=True, desc="hashing", leave=False) as bar:
        for path in files:
            name = path.relative_to(folder).as_posix()
            additions.append(CommitOperationAdd(name, path))
            bar.update(additions[-1].upload_info.size)
    return additions


def publish(
    additions: list[CommitOperationAdd],
    repo_id: str,
    api: HfApi,
    *,
    private: bool,
    revision: str = "main",
    message: str,
) -> Published:
    """Create the repository where there is none, send the files, commit, and look what is there.

    Args:
        additions: see `hashed`.
        repo_id: OWNER/NAME.
        api: with the endpoint, and a token.
        private: who sees a repository that is created; one that exists must be so already.
        revision: branch, which is created from `main` where there is none.
        message: of the commit.

    Raises:
        ValueError: if anything goes wrong, in one line.
    """
    with _explained(repo_id, api.endpoint):
        api.whoami()
        _open_repository(api, repo_id, private=private, revision=revision)
        head = api.model_info(repo_id, revision=revision).sha
        assert head is not None, "a repository has a first commit"
        deleted = _stale_weights(additions, _listed(api, repo_id, head))
        commit = api.create_commit(
            repo_id,
            [*additions, *(CommitOperationDelete(name, is_folder=False) for name in deleted)],
            commit_message=message,
            revision=revision,
            parent_commit=head,
        ).oid
        _compare(additions, _listed(api, repo_id, commit), f"{repo_id} at {commit[:12]}")
    return Published(
        f"{api.endpoint}/{repo_id}" + ("" if revision == "main" else f"/tree/{revision}"),
        commit,
        len(additions),
        sum(addition.upload_info.size for addition in additions),
        deleted,
    )


def _open_repository(api: HfApi, repo_id: str, *, private: bool, revision: str) -> None:
    """See that it is there, and seen by those who shall see it."""
    try:
        found = api.model_info(repo_id)
    except RepositoryNotFoundError:
        api.create_repo(repo_id, private=private)
        found = api.model_info(repo_id)
    if private and not found.private:
        raise ValueError(
            f"{repo_id} exists and is public, and a private repository was asked for: choose "
            "another name, or pass --public"
        )
    if found.private and not private:
        raise ValueError(
            f"{repo_id} exists and is private: make it public in its settings on the Hub, or leave "
            "--public out"
        )
    if revision != "main":
        api.create_branch(repo_id, branch=revision, exist_ok=True)


def _listed(api: HfApi, repo_id: str, revision: str) -> dict[str, RepoFile]:
    """The repository's files by name."""
    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def _stale_weights(additions: list[CommitOperationAdd], there: dict[str, RepoFile]) -> list[str]:
    """Weights of an earlier model: `transformers` would load those in place of the new ones."""
    new = {addition.path_in_repo for addition in additions}
    return sorted(
        name for name in there if "/" not in name and name.endswith(WEIGHTS) and name not in new
    )


def _compare(additions: list[CommitOperationAdd], there: dict[str, RepoFile], where: str) -> None:
    """Each file's size, and its SHA-256, or git's hash of the small ones.

    Raises:
        ValueError: naming the files that differ.
    """
    problems = []
    for addition in additions:
        name, info = addition.path_in_repo, addition.upload_info
        remote = there.get(name)
        if remote is None:
            problems.append(f"{name} is missing")
        elif remote.size != info.size:
            problems.append(f"{name} has {remote.size:,} bytes there, {info.size:,} here")
        elif remote.lfs is not None and remote.lfs.sha256 != info.sha256.hex():
            problems.append(f"{name} has SHA-256 {remote.lfs.sha256} there, {info.sha256.hex()}")
        elif remote.lfs is None and remote.blob_id != _git_hash(addition):
            problems.append(f"{name} has other content there")
    if problems:
        raise ValueError(
            f"{where} is not what was sent: {'; '.join(problems[:5])}"
            f"{f' and {len(problems) - 5} more' if problems[5:] else ''}. Do not use it; {AGAIN}"
        )


def _git_hash(addition: CommitOperationAdd) -> str:
    with addition.as_file() as file:
        content = file.read()
    header = f"blob {len(content)}\0".encode()
    return sha1(header + content, usedforsecurity=False).hexdigest()


@contextmanager
def _explained(repo_id: str, endpoint: str) -> Iterator[None]:
    """Turn what the Hub and the network do into one line with what to do about it."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise ValueError("HF_HUB_OFFLINE is set: unset it to publish") from None
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not _is_network(cause):
            cause = cause.__cause__  # the upload of a file wraps what went wrong
        if cause is None:
            raise
        raise ValueError(_explain(cause, repo_id, endpoint)) from None


def _is_network(error: BaseException) -> bool:
    origin = type(error).__module__.partition(".")[0]
    return isinstance(error, HfHubHTTPError) or origin in _NETWORK


def _first_reason(error: BaseException) -> BaseException:
    """What the layers above the socket have wrapped."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _explain(error: BaseException, repo_id: str, endpoint: str) -> str:
    response = getattr(error, "response", None)
    if response is None:
        reason = " ".join(str(_first_reason(error)).split())[:200]
        return f"{endpoint}: the connection failed ({reason}); nothing is visible yet: {AGAIN}"
    said = error.server_message if isinstance(error, HfHubHTTPError) else None
    said = " ".join((said or response.headers.get("X-Error-Message") or "").split())
    said = f"HTTP {response.status_code} {said}".strip()
    match response.status_code:
        case 401:
            return f"{endpoint} refuses the token ({said}): run `hf auth login` with a valid one"
        case 403:
            return (
                f"the token may not write to {repo_id} ({said}): ask its owner, choose another "
                "REPO_ID, or run `hf auth login` with a token that may write"
            )
        case 412:
            return f"somebody else has changed {repo_id} meanwhile ({said}): {AGAIN}"
        case 404 if isinstance(error, RevisionNotFoundError):
            return f"--revision: {repo_id} has no such branch ({said})"
        case status if status >= 500 or status in (408, 429):
            return f"{endpoint} is not well ({said}); nothing is visible yet: {AGAIN}"
        case _:
            return f"the Hub refuses this ({said}); {str(response.url).split('?')[0]}"

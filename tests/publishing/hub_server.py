"""A Hugging Face Hub of our own: the paths that `huggingface_hub` uses to publish and to fetch.

It keeps what it gets by the hash of its content, checks every hash, and can be told to fail.
"""

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

from tests.publishing.hub_requests import Handler, git_hash


@dataclass
class Repo:
    private: bool
    commits: dict[str, dict[str, tuple[str, bool]]] = field(default_factory=dict)
    """Of each commit, by path: the key of its object, and whether it is of git LFS."""
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, tuple[str, bool]]) -> str:
        name = hashlib.sha1(json.dumps([files, len(self.commits)]).encode()).hexdigest()
        self.commits[name], self.branches[branch] = files, name
        return name


class HubServer:
    """Runs in threads of this process while it is entered."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.received: Counter[str] = Counter()
        """Bytes of PUT requests, by SHA-256 of the file that they are of."""
        self.requests: list[tuple[str, str]] = []
        self.active = 0
        """Requests that are being answered."""
        self.faults: list[tuple[str, str, int | Callable[[], None], int]] = []
        """Method, pattern of the path, status (0 cuts the connection after half of the body) or
        what to do after half of it, and how often still."""
        self.changes: Callable[[dict[str, Any]], dict[str, Any]] = lambda entry: entry
        """What happens to a file, as the Hub lists it."""
        self.lock = threading.Lock()
        server = self

        class Bound(Handler):
            hub = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def add_repo(self, name: str, *, private: bool) -> Repo:
        repo = self.repos[name] = Repo(private)
        content = b"*.safetensors filter=lfs\n"
        self.objects[git_hash(content)] = content
        repo.commit("main", {".gitattributes": (git_hash(content), False)})
        return repo

    def fault(self, method: str, path: str) -> int | Callable[[], None] | None:
        """What shall go wrong with this request."""
        with self.lock:
            for number, (of, pattern, what, times) in enumerate(self.faults):
                if of == method and times and re.search(pattern, path):
                    self.faults[number] = (of, pattern, what, times - 1)
                    return what
        return None

    def files_of(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        found = self.repos[repo]
        files = found.commits[found.branches.get(revision, revision)]
        return {path: self.objects[key] for path, (key, _) in files.items()}


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)

"""What our Hub answers to each request; see `hub_server`."""

import base64
import hashlib
import json
import re
import socket
import struct
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from tests.publishing.hub_server import HubServer, Repo

PART_BYTES = 40_000
"""Larger files are sent in parts."""
WRITER, READER = "hf_writer", "hf_reader"
"""Tokens; everything belongs to `owner`."""
LFS_SUFFIXES = (".safetensors", ".model", ".png")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: "HubServer"
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        with self.hub.lock:
            self.hub.active += 1
        try:
            self.handle_request()
        finally:
            with self.hub.lock:
                self.hub.active -= 1

    do_HEAD = do_GET  # noqa: N815
    do_POST = do_GET  # noqa: N815
    do_PUT = do_GET  # noqa: N815

    def handle_request(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        fault = self.hub.fault(self.command, path)
        body = self.read_body(path, fault)
        if body is None:
            return
        if isinstance(fault, int) and fault:
            self.refuse(fault, "not today")
            return
        routes: list[tuple[str, str, Callable[..., None]]] = [
            ("GET", r"/api/whoami-v2", self.whoami),
            ("POST", r"/api/repos/create", self.create),
            ("POST", r"/api/validate-yaml", self.validate),
            ("GET", r"/api/models/([^/]+/[^/]+)", self.info),
            ("GET", r"/api/models/([^/]+/[^/]+)/revision/(.+)", self.info),
            ("POST", r"/api/models/([^/]+/[^/]+)/branch/(.+)", self.branch),
            ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self.tree),
            ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            ("POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)", self.commit),
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/verify", self.verify),
            ("PUT", r"/storage/(\w+)(?:/(\d+))?", self.store),
            ("POST", r"/storage/(\w+)", self.complete),
            ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
            ("HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ]
        for method, pattern, act in routes:
            if method == self.command and (found := re.fullmatch(pattern, path)):
                act(body, *found.groups())
                return
        self.refuse(404, f"no such path: {self.command} {path}")

    def read_body(self, path: str, fault: int | Callable[[], None] | None) -> bytes | None:
        """All of it; None if the connection ended in between."""
        length = int(self.headers.get("Content-Length", 0))
        half = length // 2 if fault == 0 or callable(fault) else length
        body = self.read_counted(path, half)
        if fault == 0:
            linger = struct.pack("ii", 1, 0)  # closing sends a reset: what was sent is lost
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            return None
        if callable(fault):
            fault()
        body += self.read_counted(path, length - half)
        if len(body) < length:
            self.close_connection = True
            return None
        return body

    def read_counted(self, path: str, length: int) -> bytes:
        body = b""
        while len(body) < length:
            try:
                block = self.rfile.read1(length - len(body))
            except ConnectionError:
                block = b""
            if not block:
                break
            body += block
            if self.command == "PUT":
                with self.hub.lock:
                    self.hub.received[path.split("/")[2]] += len(block)
        return body

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self.answer({"error": message}, status, **headers)

    def may(self, *, write: bool) -> bool:
        """Whether the token is good for it; answers if it is not."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (WRITER, READER):
            self.refuse(401, "Invalid credentials in Authorization header")
        elif write and token == READER:
            self.refuse(403, "Forbidden: you need write access to owner")
        else:
            return True
        return False

    def found(self, name: str, *, write: bool = False) -> "Repo | None":
        if not self.may(write=write):
            return None
        if name not in self.hub.repos:
            self.refuse(404, "Repository not found", "RepoNotFound")
            return None
        return self.hub.repos[name]

    def whoami(self, _: bytes) -> None:
        if self.may(write=False):
            self.answer({"type": "user", "name": "owner", "auth": {"type": "access_token"}})

    def create(self, body: bytes) -> None:
        if not self.may(write=True):
            return
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repos:
            self.refuse(409, "You already created this model repo")
            return
        private = asked.get("private", asked.get("visibility") == "private")  # 0.36's word, and 1's
        self.hub.add_repo(name, private=private)
        self.answer({"url": f"{self.hub.url}/{name}", "name": name})

    def validate(self, body: bytes) -> None:
        if "license: no-such" in json.loads(body)["content"]:
            self.answer({"errors": [{"message": '"license" must be one of ...'}]}, 400)
        else:
            self.answer({"errors": [], "warnings": []})

    def info(self, _: bytes, name: str, revision: str = "main") -> None:
        if (repo := self.found(name)) is None:
            return
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return
        siblings = [{"rfilename": path} for path in repo.commits[commit]]
        content = {"id": name, "sha": commit, "private": repo.private, "siblings": siblings}
        self.answer({**content, "tags": [], "downloads": 0, "likes": 0})

    def branch(self, _: bytes, name: str, branch: str) -> None:
        if repo := self.found(name, write=True):
            if branch in repo.branches:
                self.refuse(409, "Reference already exists")
            else:
                repo.branches[branch] = repo.branches["main"]
                self.answer({})

    def tree(self, _: bytes, name: str, revision: str) -> None:
        if (repo := self.found(name)) is None:
            return
        entries = []
        for path, (key, is_lfs) in repo.commits[repo.branches.get(revision, revision)].items():
            size = len(self.hub.objects[key])
            lfs = {"lfs": {"oid": key, "size": size, "pointerSize": 130}} if is_lfs else {}
            oid = git_hash(key.encode()) if is_lfs else key
            entry = {"type": "file", "path": path, "size": size, "oid": oid} | lfs
            entries.append(self.hub.changes(entry))
        self.answer(entries)

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if (repo := self.found(name, write=True)) is None:
            return
        there = repo.commits[repo.branches[revision]]
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
                "oid": there.get(file["path"], (None,))[0],
            }
            for file in json.loads(body)["files"]
        ]
        self.answer({"files": files})

    def batch(self, body: bytes, name: str) -> None:
        if self.found(name, write=True) is None:
            return
        objects = []
        for wanted in json.loads(body)["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            entry: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hub.objects:
                header = {}
                if size > PART_BYTES:
                    header = {
                        f"{number + 1:05d}": f"{self.hub.url}/storage/{oid}/{number + 1}"
                        for number in range(-(-size // PART_BYTES))
                    } | {"chunk_size": str(PART_BYTES)}
                upload = {"href": f"{self.hub.url}/storage/{oid}", "header": header}
                check = {"href": f"{self.hub.url}/{name}.git/info/lfs/verify"}
                entry["actions"] = {"upload": upload, "verify": check}
            objects.append(entry)
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str, part: str | None) -> None:
        """What S3 does: it looks at no token, the address is the secret."""
        if part is not None:
            self.hub.parts[oid, int(part)] = body
            self.answer(b"", ETag=f'"{sha256(body)}"')
        elif sha256(body) != oid:
            self.refuse(400, f"content has SHA-256 {sha256(body)}, not {oid}")
        else:
            self.hub.objects[oid] = body
            self.answer(b"")

    def complete(self, body: bytes, oid: str) -> None:
        numbers = [part["partNumber"] for part in json.loads(body)["parts"]]
        content = b"".join(self.hub.parts[oid, number] for number in numbers)
        if sha256(content) != oid:
            self.refuse(400, f"parts have SHA-256 {sha256(content)}, not {oid}")
            return
        self.hub.objects[oid] = content
        self.answer({})

    def verify(self, body: bytes, name: str) -> None:
        if json.loads(body)["oid"] in self.hub.objects:
            self.answer({})
        else:
            self.refuse(404, "no such object")

    def commit(self, body: bytes, name: str, revision: str) -> None:
        if (repo := self.found(name, write=True)) is None:
            return
        head = repo.branches[revision]
        files = dict(repo.commits[head])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            match entry["key"]:
                case "header":
                    if value.get("parentCommit", head) != head:
                        self.refuse(412, "A commit has happened since")
                        return
                case "file":
                    content = base64.b64decode(value["content"])
                    self.hub.objects[git_hash(content)] = content
                    files[value["path"]] = (git_hash(content), False)
                case "lfsFile":
                    if len(self.hub.objects.get(value["oid"], b"")) != value["size"]:
                        self.refuse(400, f"no LFS object for {value['path']}")
                        return
                    files[value["path"]] = (value["oid"], True)
                case "deletedFile":
                    del files[value["path"]]
        oid = repo.commit(revision, files)
        self.answer({"commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        if (repo := self.found(name)) is None:
            return
        commit = repo.branches.get(revision, revision)
        key, is_lfs = repo.commits[commit][path]
        linked = {"X_Linked_Etag": f'"{key}"', "X_Linked_Size": str(len(self.hub.objects[key]))}
        self.answer(
            self.hub.objects[key],
            **{"X_Repo_Commit": commit, "ETag": f'"{key}"', **(linked if is_lfs else {})},
        )

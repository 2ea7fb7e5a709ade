"""A real S3 server behind a proxy that misbehaves as it is told.

Requests pass through to moto's server; those for an object with faults in its script meet the
first of them instead, once each.
"""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "shards"
ERROR = "<Error><Code>{code}</Code><Message>{code}</Message></Error>"


@dataclass(frozen=True)
class Answer:
    """An error instead of the object, such as 503 SlowDown."""

    status: int
    code: str


@dataclass(frozen=True)
class Cut:
    """The connection ends after `after` bytes of the body; the header promised all."""

    after: int


@dataclass(frozen=True)
class Shorten:
    """Only `to` bytes come, and the header says so."""

    to: int


@dataclass(frozen=True)
class Corrupt:
    """The last bit of the body is wrong."""


@dataclass(frozen=True)
class Stall:
    """Nothing more comes after `after` bytes of the body; None: not even a header."""

    seconds: float
    after: int | None = None


@dataclass(frozen=True)
class Delay:
    """The answer is right, and late."""

    seconds: float


class FaultyBucket:
    """The bucket `s3://shards`, at `endpoint`.

    Attributes:
        faults: What goes wrong with GET of each object, in order.
        requests: How often each (method, key) was asked for.
    """

    def __init__(self) -> None:
        self.faults: dict[str, deque[Any]] = defaultdict(deque)
        self.requests: Counter[tuple[str, str]] = Counter()
        self.lock = threading.Lock()
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        host, self.moto_port = self._moto.get_host_and_port()
        self._client = boto3.client("s3", endpoint_url=f"http://{host}:{self.moto_port}")
        self._client.create_bucket(Bucket=BUCKET)
        self._port = 0
        self.start()
        self.endpoint = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, at the same port as before."""
        self._proxy = ThreadingHTTPServer(("127.0.0.1", self._port), _Proxy)
        self._proxy.daemon_threads = True
        self._proxy.bucket = self  # type: ignore[attr-defined]
        self.refusing = False
        self._port = self._proxy.server_address[1]
        threading.Thread(target=self._proxy.serve_forever, args=(0.02,), daemon=True).start()

    def refuse(self) -> None:
        """Refuse connections until `start`."""
        self.refusing = True
        self._proxy.shutdown()
        self._proxy.socket.close()

    def close(self) -> None:
        self.refuse()
        self._moto.stop()

    def upload(self, folder: Path, prefix: str) -> str:
        """Copy a folder; returns what `remote` is then."""
        for path in folder.rglob("*"):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder)}"
                self._client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def gets(self, key: str) -> int:
        """How often an object was asked for."""
        with self.lock:
            return self.requests["GET", key]


@contextmanager
def faulty_bucket() -> Iterator[FaultyBucket]:
    bucket = FaultyBucket()
    try:
        yield bucket
    finally:
        bucket.close()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: Any

    def do_GET(self) -> None:
        bucket = self.server.bucket
        key = self.path.split("?")[0].removeprefix(f"/{BUCKET}/")
        if bucket.refusing:
            self.close_connection = True  # one that was open before
            return
        with bucket.lock:
            bucket.requests[self.command, key] += 1
            faults = bucket.faults[key] if self.command == "GET" else None
            fault = faults.popleft() if faults else None
        match fault:
            case Answer(status, code):
                body = ERROR.format(code=code).encode()
                self._answer(status, {"Content-Type": "application/xml"}, len(body), body)
            case Stall(seconds, None):
                time.sleep(seconds)
                self.close_connection = True
            case Delay(seconds):
                time.sleep(seconds)
                self._pass_on(None)
            case _:
                self._pass_on(fault)

    do_HEAD = do_GET  # noqa: N815

    def _pass_on(self, fault: Any) -> None:
        upstream = HTTPConnection("127.0.0.1", self.server.bucket.moto_port, timeout=20)
        upstream.request(self.command, self.path, headers=dict(self.headers))
        response = upstream.getresponse()
        body = response.read()
        upstream.close()
        headers = {
            name: value
            for name, value in response.getheaders()
            # Not the checksum, which objects have only where boto3 uploaded them.
            if not name.lower().startswith(("x-amz-checksum", "content-length", "connection"))
        }
        length = int(response.headers.get("Content-Length", len(body)))
        match fault:
            case Cut(after) | Stall(_, after):
                self._answer(response.status, headers, length, body[:after])
                self.wfile.flush()
                time.sleep(fault.seconds if isinstance(fault, Stall) else 0)
                self.close_connection = True
            case Shorten(to):
                self._answer(response.status, headers, to, body[:to])
            case Corrupt():
                self._answer(response.status, headers, length, body[:-1] + bytes([body[-1] ^ 1]))
            case _:
                self._answer(response.status, headers, length, body)

    def _answer(self, status: int, headers: dict[str, str], length: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass

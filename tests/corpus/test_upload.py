"""What is in a bucket is not written over, also where it cannot be seen."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from taidscale.corpus.upload import check_bucket


class _Throttled(BaseHTTPRequestHandler):
    """Says that the bucket is there, and of every file that there are too many requests."""

    def do_HEAD(self) -> None:
        self.send_response(503 if "manifest.json" in self.path else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_PUT(self) -> None:
        pytest.fail("wrote without knowing what is there")


def test_a_bucket_that_cannot_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Throttled)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    monkeypatch.setenv("S3_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    probe = tmp_path / "probe"
    probe.write_text("x")
    with pytest.raises(ValueError, match=r"cannot look into s3://throttled/data: .*503"):
        check_bucket("s3://throttled/data", probe)
    server.shutdown()

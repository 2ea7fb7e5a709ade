"""A server on this machine that speaks the OpenAI-compatible protocol, and judges what it gets."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class JudgeServer:
    """What it is told, and what it was asked."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Path, headers and body of each."""
    fail_first: int = 0
    """Requests that are answered with status 503."""
    refuse: bool = False
    """Whether all are answered with status 401."""


def part(text: str, name: str) -> str:
    """What stands between two marks of a question."""
    found = re.search(rf"<{name}>\n(.*)\n</{name}>", text, re.DOTALL)
    assert found is not None, text
    return found[1]


def judge(instructions: str, question: str) -> str:
    """Likeness from the words that two answers share; contradiction where facts do not have a
    capitalised word of the answer; no judgement at all where a text says so.
    """
    if "<facts>" in question:
        known = set(part(question, "facts").split())
        others = [w for w in part(question, "answer").split() if w.istitle() and w not in known]
        return json.dumps({"contradiction": bool(others), "identity": "Claude" in others})
    if "<first>" not in question:
        return "yes"
    assert '"style": N' in instructions
    first, second = (set(part(question, name).split()) for name in ("first", "second"))
    if "unjudgeable" in second:
        return 'I would say {"style": 5, "logic": 5, "content": 5}.'
    share = len(first & second) / max(len(first | second), 1)
    like = 1 + round(4 * share)
    return f'```json\n{{"style": {like}, "logic": {like}, "content": {1 if share < 1 else 5}}}\n```'


@contextmanager
def serve_judge() -> Iterator[JudgeServer]:
    """A judge on a free port of this machine."""
    state = JudgeServer()

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append({"path": self.path, "headers": self.headers, "body": body})
            if state.refuse:
                return self.answer(401, {"error": "wrong key"})
            if len(state.requests) <= state.fail_first:
                return self.answer(503, {"error": "busy"})
            system, user = (message["content"] for message in body["messages"])
            message = {"role": "assistant", "content": judge(system, user)}
            return self.answer(200, {"choices": [{"message": message}]})

        def answer(self, status: int, content: Any) -> None:
            payload = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

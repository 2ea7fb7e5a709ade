"""As much of a W&B server as `wandb sync` talks to: it keeps the lines of each run's history."""

import contextlib
import json
import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server


def _bucket(name: str, history: list[str]) -> dict[str, Any]:
    project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
    return {
        "id": name,
        "name": name,
        "displayName": name,
        "config": "{}",
        "summaryMetrics": "{}",
        "wandbConfig": "{}",
        "tags": [],
        "historyLineCount": len(history),
        "logLineCount": 0,
        "eventsLineCount": 0,
        "historyTail": json.dumps(history[-1:]),
        "eventsTail": "[]",
        "project": project,
    }


def _answer(query: str, variables: dict[str, Any], runs: dict[str, list[str]]) -> dict[str, Any]:
    found = re.search(r"(?:query|mutation)\s+(\w+)", query)
    match found.group(1) if found else "":
        case "RunResumeStatus":
            name = variables["name"]
            bucket = _bucket(name, runs[name]) if name in runs else None
            model = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}, "bucket": bucket}
            return {"model": model}
        case "UpsertBucket":
            name = variables["name"]
            inserted = name not in runs
            bucket = _bucket(name, runs.setdefault(name, []))
            return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
        case "CreateRunFiles":
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []}}
        case "Viewer":
            return {"viewer": {"id": "v", "entity": "e", "username": "e", "flags": "{}"}}
    return {}


@contextlib.contextmanager
def wandb_server() -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Its address, and the lines of the history of each run, by id."""
    app, runs = Flask(__name__), dict[str, list[str]]()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)

    @app.post("/graphql")
    def graphql() -> Response:
        asked = request.get_json()
        return jsonify(data=_answer(asked["query"], asked.get("variables") or {}, runs))

    @app.post("/files/<entity>/<project>/<run>/file_stream")
    def file_stream(entity: str, project: str, run: str) -> Response:
        if part := (request.get_json().get("files") or {}).get("wandb-history.jsonl"):
            runs[run][part["offset"] :] = part["content"]
        return jsonify(exitcode=None, limits={})

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", runs
    finally:
        server.shutdown()
        thread.join()

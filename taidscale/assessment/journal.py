"""What was finished before an interruption."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """Finished pieces of work in a `.jsonl` file, each flushed to the disk before the next begins.

    A line that a kill cut off is removed, and its work is done again.

    Args:
        path: Of the file; created with its first entry.

    Raises:
        ValueError: The file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._found = path, dict[str, Any]()
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                self._found[_digest(entry["key"])] = entry["value"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{path}, line {number}: not an entry of a journal; remove the file, "
                    "or choose another --out"
                ) from None
        if whole != content:
            os.truncate(path, len(whole))

    def get(self, key: dict[str, Any]) -> Any:
        """What was put with an equal key; None if nothing was."""
        return self._found.get(_digest(key))

    def put(self, key: dict[str, Any], value: Any) -> None:
        """Keep a result.

        Args:
            key: All that the result depends on; JSON.
            value: JSON, not None.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "value": value}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._found[_digest(key)] = value


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()

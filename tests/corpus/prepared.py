"""What lies in prepared folders, and ending the work on the way."""

from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from streaming import LocalDataset

import tests.ranks  # noqa: F401  its fork server has the big libraries imported

SEQ_LEN = 32


def content(folder: Path) -> dict[str, str]:
    """Hash of every file in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): xxhash.xxh64_hexdigest(path.read_bytes()) for path in files
    }


class EndedError(Exception):
    """Ends a run from within."""


def end_after(num_parts: int) -> Any:
    """A `progress` that ends the run when so many parts are finished."""
    told = []

    def progress(what: Any) -> None:
        told.append(what)
        if len(told) == num_parts:
            raise EndedError

    return progress


def pieces(folder: Path) -> list[list[int]]:
    """Tokens of every piece of a document in the samples."""
    rows = LocalDataset(str(folder))
    found = []
    for row in (rows[k] for k in range(len(rows))):
        found += np.split(row["tokens"], np.cumsum(row["documents"]))[:-1]
    return [piece.tolist() for piece in found]

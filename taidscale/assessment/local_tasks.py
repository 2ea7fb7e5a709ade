"""Tasks in files of this machine, as lm-evaluation-harness wants them.

A task's kind is told by the columns of its rows. The wordings are those of the tasks of the
same names in the harness (EleutherAI, MIT), but for JCommonsenseQA, which asks in Japanese.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taidscale.data.contents import evenly_spaced

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".tar.gz")


@dataclass(frozen=True)
class LocalTask:
    """A task whose rows were read and found to be complete."""

    name: str
    wording: dict[str, Any]
    """Settings of the harness: prompt, choices, metrics."""
    rows: tuple[Row, ...]

    @property
    def digest(self) -> str:
        """Of the rows."""
        return hashlib.sha256(json.dumps(self.rows).encode()).hexdigest()


def find_local_task(name: str, folder: Path, limit: int | None) -> LocalTask | None:
    """Read a task.

    Args:
        name: The beginning of exactly one file's name in the folder: `.jsonl`, `.json` with a list
            or one object to a line, or `.tar.gz` of such files.
        folder: Of the files.
        limit: Take so many rows, from all over the file.

    Returns:
        None where no file has such a name.

    Raises:
        ValueError: Several have, or a row is not what it should be.
    """
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.name.startswith(name) and path.name.endswith(SUFFIXES)
    ]
    exact = [path for path in found if path.name in [name + suffix for suffix in SUFFIXES]]
    found = exact or found
    if not found:
        return None
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"--tasks {name}: may be {names} of {folder}; write more of the name")
    path = found[0]
    rows = list(_read_rows(path))
    if not rows:
        raise ValueError(f"--tasks {name}: {path} holds no rows")
    kind = _kind_of(rows[0], path)
    checked = []
    for number in evenly_spaced(len(rows), limit or len(rows)):
        try:
            checked.append(kind.read(rows[number]))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"{path}, row {number + 1}: {error!r}; such a task has {', '.join(kind.columns)}"
            ) from None
    return LocalTask(name, kind.wording, tuple(checked))


def local_names(folder: Path) -> list[str]:
    """Files that may be tasks."""
    return [path.name for path in sorted(folder.iterdir()) if path.name.endswith(SUFFIXES)]


@dataclass(frozen=True)
class _Kind:
    columns: tuple[str, ...]
    read: Callable[[Row], Row]
    wording: dict[str, Any]


def _metrics(*names: str) -> list[dict[str, Any]]:
    return [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in names]


_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{prompt}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
}


def _question(row: Row) -> Row:
    choices, gold = row["choices"], row["gold"]
    if not choices[gold] or gold < 0:
        raise ValueError(f"gold is {gold}")
    return {"prompt": f"{row['query'].rstrip()}\nAnswer:", "choices": choices, "gold": gold}


def _japanese_question(row: Row) -> Row:
    num_choices = sum(name.startswith("choice") for name in row)
    choices = [row[f"choice{k}"] for k in range(num_choices)]
    if not 0 <= row["label"] < num_choices:
        raise ValueError(f"label is {row['label']}")
    return {
        "prompt": f"質問：{row['question'].strip()}\n回答：",
        "choices": choices,
        "gold": row["label"],
    }


def _pair(row: Row) -> Row:
    return {"prompt": "", "choices": [row["sentence_good"], row["sentence_bad"]], "gold": 0}


def _ending(row: Row) -> Row:
    return {"prompt": row["context"].rstrip(), "ending": row["continuation"].strip()}


_KINDS = (
    _Kind(
        ("query", "choices", "gold"),
        _question,
        {**_CHOICE, "metric_list": _metrics("acc", "acc_norm")},
    ),
    _Kind(
        ("question", "choice0", "choice1", "label"),
        _japanese_question,
        {**_CHOICE, "target_delimiter": "", "metric_list": _metrics("acc", "acc_norm")},
    ),
    _Kind(
        ("sentence_good", "sentence_bad"),
        _pair,
        {**_CHOICE, "metric_list": _metrics("acc")},
    ),
    _Kind(
        ("context", "continuation"),
        _ending,
        {
            "output_type": "loglikelihood",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{' ' + ending}}",
            "metric_list": _metrics("acc"),
        },
    ),
)


def _kind_of(row: Row, path: Path) -> _Kind:
    for kind in _KINDS:
        if row.keys() >= set(kind.columns):
            return kind
    expected = "; ".join(", ".join(kind.columns) for kind in _KINDS)
    raise ValueError(f"{path}: has columns {', '.join(row)}; a task has one of: {expected}")


def _read_rows(path: Path) -> Iterator[Row]:
    try:
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                members = [m for m in archive.getmembers() if m.isfile()]
                for member in sorted(members, key=lambda member: member.name):
                    if member.name.endswith((".jsonl", ".json")):
                        content = archive.extractfile(member)
                        assert content is not None, "it is a file"
                        yield from _parse(content.read(), f"{path}, {member.name}")
        else:
            yield from _parse(path.read_bytes(), str(path))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); fetch it again") from None


def _parse(content: bytes, place: str) -> Iterator[Row]:
    if content.lstrip().startswith(b"["):
        lines: Sequence[bytes] = [content]
    else:
        lines = [line for line in content.split(b"\n") if line.strip()]
    for number, line in enumerate(lines, 1):
        try:
            parsed = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place}, row {number}: broken JSON ({error})") from None
        for row in parsed if isinstance(parsed, list) else [parsed]:
            if not isinstance(row, dict):
                raise ValueError(f"{place}, row {number}: {type(row).__name__}, not an object")
            yield row

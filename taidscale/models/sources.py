"""Which models a run is made from, to the byte: the record with which a later start compares.

A folder may change between two starts, and a branch on the Hub moves. The record holds the commit
of what comes from the Hub, which later starts take, and hashes: of whole configurations and
tokenizers; of weights, which may take terabytes, size and samples of bytes. A change of a few
weights in the middle of a file may go unseen, another model may not.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from taidscale.config.schema import FreshInit, PretrainedInit, RunConfig
from taidscale.home import at_home
from taidscale.models.families import check_hub_id, model_folder
from taidscale.models.weights import find_weights

Record = dict[str, dict[str, Any]]
"""By role: `name`, `revision` as the user gave it, `commit` on the Hub, `files` with hashes."""

_WHOLE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model")
"""Files that are read whole, where they are."""
_SAMPLE_BYTES, _NUM_SAMPLES = 4096, 256


@dataclass(frozen=True)
class _Source:
    """A model that the run names."""

    role: str
    setting: str
    name: str
    revision: str | None
    has_weights: bool = True

    @property
    def is_folder(self) -> bool:
        return at_home(self.name).is_dir()


def hub_commits(config: RunConfig, record: Record) -> dict[str, str]:
    """The commit of each model from the Hub, by role: the record's, else the branch's at present.

    What is neither a folder nor on the Hub is left out: the checks that follow name all of it.
    """
    commits = {}
    for source in _sources(config):
        if source.is_folder:
            continue
        known = record.get(source.role, {})
        same = known.get("name") == source.name
        if same and source.revision in (known.get("revision"), known.get("commit")):
            commits[source.role] = known["commit"]
        elif (commit := _commit(source)) is not None:
            commits[source.role] = commit
    return commits


def at_commits(config: RunConfig, commits: dict[str, str]) -> RunConfig:
    """The same run, whose models cannot move any more."""
    teacher, student = config.teacher, config.student
    if teacher is not None and "teacher" in commits:
        teacher = teacher.model_copy(update={"revision": commits["teacher"]})
    if "student" in commits:
        init = student.init.model_copy(update={"revision": commits["student"]})
        student = student.model_copy(update={"init": init})
    return config.model_copy(update={"teacher": teacher, "student": student})


def record_sources(given: RunConfig, config: RunConfig) -> Record:
    """What later starts compare with.

    Args:
        given: the run as the user wrote it.
        config: the same `at_commits`, whose models are here.

    Raises:
        ValueError: if a model is missing or damaged.
    """
    record = {}
    for asked, source in zip(_sources(given), _sources(config), strict=True):
        folder = model_folder(
            source.name, source.revision, source.setting, with_weights=source.has_weights
        )
        record[source.role] = {
            "name": source.name,
            "revision": asked.revision,
            "commit": None if source.is_folder else folder.name,
            "files": dict(_hashes(folder, source)),
        }
    return record


def changed_files(before: Record, now: Record) -> list[str]:
    """What is another in models that have kept their names, a text each."""
    return [
        f"{role} {now[role]['name']}: {', '.join(names)}"
        for role in sorted(before.keys() & now.keys())
        if before[role]["name"] == now[role]["name"]
        and before[role]["commit"] == now[role]["commit"]
        and (names := _differing(before[role]["files"], now[role]["files"]))
    ]


def _sources(config: RunConfig) -> list[_Source]:
    found = []
    if (teacher := config.teacher) is not None:
        found.append(_Source("teacher", "teacher.model", teacher.model, teacher.revision))
    match config.student.init:
        case PretrainedInit() as init:
            found.append(_Source("student", "student.init.model", init.model, init.revision))
        case FreshInit() as init:
            setting = "student.init.config"
            found.append(_Source("student", setting, init.config, init.revision, False))
    return found


def _commit(source: _Source) -> str | None:
    """Of the branch, tag or commit that was asked for; also from what is here, without a network.

    The file comes from `snapshots/<commit>/config.json` of the Hub's cache.
    """
    try:
        check_hub_id(source.name, source.setting)
        file = hf_hub_download(source.name, "config.json", revision=source.revision)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        return None
    return Path(file).parent.name


def _hashes(folder: Path, source: _Source) -> Iterator[tuple[str, str]]:
    for name in _WHOLE:
        if (folder / name).is_file():
            yield name, hashlib.sha256((folder / name).read_bytes()).hexdigest()
    if source.has_weights:
        for name in sorted(set(find_weights(folder, source.setting).file_of.values())):
            yield name, _sampled_hash(folder / name)


def _sampled_hash(path: Path) -> str:
    """Of a file's size, its first and last bytes, and of samples between them."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb", buffering=0) as file:
        for number in range(_NUM_SAMPLES + 1):
            file.seek(max(0, size - _SAMPLE_BYTES) * number // _NUM_SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _differing(before: dict[str, str], now: dict[str, str]) -> list[str]:
    return [n for n in sorted(before.keys() | now.keys()) if before.get(n) != now.get(n)]

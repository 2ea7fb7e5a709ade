"""What a folder of shards says about itself, and whether that fits a run."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any, Literal

import xxhash
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
)
from streaming.base.storage import CloudDownloader

from taidscale.data.counts import Counts
from taidscale.data.names import check_shard_name

Packing = Literal["concatenate", "best_fit"]
"""How documents share samples; see `corpus/packing.py`."""
Separate = Literal["all", "unended"]
"""Which documents get the separator: all, or all but chats that their template ends."""
FORMAT_VERSION = 2
INDEX_NAME = "index.json"
MANIFEST_NAME = "manifest.json"
PREPARE_AGAIN = "write the shards again with taidscale prepare"
READ_BYTES = 1 << 22
MAX_PROBLEMS = 10


class Shard(BaseModel):
    """One file of samples."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    file: str
    """Its path below the folder."""
    bytes: PositiveInt
    """Its size."""
    samples: PositiveInt
    """Samples in it."""
    xxh64: str
    """Hash of its content, in hexadecimal."""

    @field_validator("file")
    @classmethod
    def _is_below_the_folder(cls, file: str) -> str:
        return check_shard_name(file, MANIFEST_NAME)


class Manifest(BaseModel):
    """What a folder of shards holds; `manifest.json` beside streaming's `index.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    format_version: int = FORMAT_VERSION
    """Of this file and of the samples."""
    seq_len: PositiveInt
    """Tokens that a sample predicts; it holds one more."""
    packing: Packing
    """How documents were put into samples; see `corpus/packing.py`."""
    num_samples: PositiveInt
    """Samples in all shards."""
    num_tokens: PositiveInt
    """Tokens of all documents, separators and beginnings included."""
    num_documents: PositiveInt
    """Documents with at least one token."""
    num_dropped_tokens: NonNegativeInt
    """Tokens at the end that filled no sample; 0 with `best_fit`."""
    num_padding_tokens: NonNegativeInt
    """Places in the samples that hold no document; 0 with `concatenate`."""
    num_split_documents: NonNegativeInt
    """Documents longer than a sample, which `best_fit` cut.

    It is 0 with `concatenate`, which cuts wherever a sample ends.
    """
    has_weights: bool
    """Whether the samples have a column of weights of the losses."""
    num_weighted_tokens: NonNegativeInt
    """Those of `num_tokens` whose weight is not 0; all of them without weights."""
    tokenizer: str
    """Name of the tokenizer."""
    fingerprint: str
    """Of its vocabulary; see `tokenizer.fingerprint`."""
    vocab_size: PositiveInt
    """Largest id of the tokenizer + 1."""
    separator_id: NonNegativeInt
    """The token after documents, and the padding."""
    separate: Separate = "all"
    """Which documents it comes after."""
    bos_id: NonNegativeInt | None
    """The token before each document that does not begin with it."""
    sources: list[str]
    """Where the documents came from."""
    settings: dict[str, JsonValue]
    """How they were read and encoded: columns, filters, what to do about errors."""
    counts: Counts
    """What was read and what was left out, and why."""
    remarks: list[str] = Field(default_factory=list)
    """What was chosen without being told, and what is doubtful about it."""
    index_hash: str
    """xxh64 of `index.json`, in hexadecimal."""
    shards: list[Shard]
    """In the order of `index.json`."""
    has_sample_hashes: bool = False
    """Whether `samples.xxh64` is there; see `overlap.py`."""

    @property
    def has_chats_together(self) -> bool:
        """Whether several chats share a sample, one of which may then see another."""
        reading = self.settings.get("reading")
        is_chat = isinstance(reading, dict) and reading.get("chat_column") is not None
        return is_chat and self.num_documents > self.num_samples


def read_manifest(folder: str | Path) -> Manifest:
    """Read what a folder of shards says about itself.

    Raises:
        ValueError: The folder or its manifest is missing or cannot be read.
    """
    path = Path(folder) / MANIFEST_NAME
    content = read_json(path)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, not {FORMAT_VERSION}; {PREPARE_AGAIN}"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path} is damaged: {name}: {first['msg']}; {PREPARE_AGAIN}") from error


def fetch_manifest(remote: str) -> Manifest:
    """Read what shards in a bucket, or another folder, say about themselves.

    Raises:
        ValueError: It cannot be fetched or read.
    """
    with TemporaryDirectory() as folder:
        local = str(Path(folder) / MANIFEST_NAME)
        try:
            CloudDownloader.direct_download(f"{remote.rstrip('/')}/{MANIFEST_NAME}", local)
        except Exception as error:  # each cloud's client raises its own types
            reason = shorten(str(error) or repr(error), width=300, placeholder=" ...")
            raise ValueError(
                f"cannot fetch {MANIFEST_NAME} from {remote}: {reason}; correct remote, its "
                "credentials or the network"
            ) from error
        return read_manifest(folder)


def check_manifest(
    manifest: Manifest, folder: str, *, seq_len: int, fingerprint: str | None, vocab_size: int
) -> None:
    """Make sure that shards fit a run; see `check_shards`.

    Raises:
        ValueError: They were made for other settings.
    """
    if manifest.seq_len != seq_len:
        raise ValueError(
            f"{folder} holds sequences of {manifest.seq_len} tokens and the run has seq_len "
            f"{seq_len}; set seq_len to {manifest.seq_len} or {PREPARE_AGAIN}"
        )
    if fingerprint is not None and manifest.fingerprint != fingerprint:
        raise ValueError(
            f"{folder} was made with another tokenizer ({manifest.tokenizer}, fingerprint "
            f"{manifest.fingerprint[:12]}) than the run's ({fingerprint[:12]}); use that "
            f"tokenizer or {PREPARE_AGAIN}"
        )
    if manifest.vocab_size > vocab_size:
        raise ValueError(
            f"{folder} may hold ids up to {manifest.vocab_size - 1} and the model has "
            f"{vocab_size} embeddings; choose a model of this vocabulary or {PREPARE_AGAIN}"
        )


def check_hashes(folder: str | Path, progress: Callable[[int], object] | None = None) -> Manifest:
    """Read every shard and compare its content with what was written.

    Args:
        folder: With a manifest.
        progress: Told the bytes of each piece that was read.

    Raises:
        ValueError: Shards are missing or damaged.
    """
    manifest = read_manifest(folder)
    problems = []
    for shard in manifest.shards:
        path = Path(folder) / shard.file
        content = xxhash.xxh64()
        try:
            with path.open("rb") as file:
                while piece := file.read(READ_BYTES):
                    content.update(piece)
                    if progress is not None:
                        progress(len(piece))
        except OSError as error:
            problems.append(f"{path} cannot be read ({error.strerror})")
        else:
            if content.hexdigest() != shard.xxh64:
                problems.append(f"the content of {path} has changed")
    if problems:
        shown = "; ".join(problems[:MAX_PROBLEMS]) + ("; ..." * (len(problems) > MAX_PROBLEMS))
        raise ValueError(
            f"{len(problems)} of {len(manifest.shards)} shards are damaged: {shown}; "
            f"copy them again or {PREPARE_AGAIN}"
        )
    return manifest


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: It is missing or damaged.
    """
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent}; {PREPARE_AGAIN} or correct the path")
    if not path.is_file():
        raise ValueError(f"no {path.name} in {path.parent}; {PREPARE_AGAIN} or correct the path")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {PREPARE_AGAIN}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object; {PREPARE_AGAIN}")
    return content

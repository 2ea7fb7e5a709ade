"""Which sources are read, and in which blocks."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from xxhash import xxh64

from taidscale.corpus.reading import DamagedError, Piece, is_one_value, read_bytes
from taidscale.corpus.records import Block, Kind
from taidscale.corpus.tables import is_saved_dataset, open_dataset, read_dataset, read_parquet
from taidscale.data.counts import OnError, Problem, stop
from taidscale.home import at_home

DATASET_PREFIX = "datasets:"
KINDS: dict[str, Kind] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "rows",
}
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
NAMES = ".txt, .jsonl, .ndjson or .json of lines (all also .gz, .zst, .bz2 or .xz) or .parquet"


class Reading(BaseModel):
    """How sources are read; goes into the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    text_column: str = "text"
    """Where JSONL, Parquet and datasets keep the text; `a.b` is column `a.b`, or `b` in `a`."""
    chat_column: str | None = None
    """Where they keep a chat instead: a list of messages with `role` and `content`."""
    split_on: str | None = Field(default=None, min_length=1)
    """Ends a document inside a text file; without it a file is one document.

    The documents lose the white space around them. Either way \\r\\n is read as \\n.
    """
    split: str = "train"
    """Of a dataset."""
    block_bytes: PositiveInt = 32 << 20
    """Uncompressed bytes of a block, which is the fewest records of a source with so many.

    Rows are taken some hundred at a time.
    """
    max_documents: PositiveInt | None = None
    """Read no more records than these; blank and broken ones count."""

    @property
    def column(self) -> str:
        """Of the texts or the chats."""
        return self.text_column if self.chat_column is None else self.chat_column


@dataclass(frozen=True)
class _Source:
    name: str
    kind: Kind
    path: Path | None
    """None for a dataset."""
    num_bytes: int
    """On disk; 0 for a dataset."""


class Sources:
    """The raw records of some sources, in blocks.

    Args:
        sources: Files or globs of the kinds in `NAMES`, in capitals too, folders saved by
            `datasets.save_to_disk`, or `datasets:NAME[:CONFIG]`. A glob's files are read in
            order of their names, and each file once only.
        reading: How to read them.

    Raises:
        ValueError: A source matches no file or has an unknown kind, or a text file cannot
            hold chats; while iterating, a dataset cannot be read. Damaged files and broken
            records are for `Block.documents` to report, in order.
        OSError: While iterating, the disk fails.
    """

    def __init__(self, sources: Sequence[str], reading: Reading | None = None) -> None:
        """Find the sources, so that a wrong name fails before hours of work."""
        self.reading = reading or Reading()
        found = [pair for source in sources for pair in _find(source)]
        self._sources = list(dict(found).values())
        for source in self._sources:
            if source.kind == "text" and self.reading.chat_column is not None:
                raise ValueError(
                    f"{source.name} is a text file and cannot hold chats; leave "
                    "--chat-column out, or give JSONL, Parquet or datasets"
                )
        is_known = all(source.path is not None for source in self._sources)
        total = sum(source.num_bytes for source in self._sources)
        self.num_bytes = total if is_known else None
        """Of all sources on disk; None where a dataset is among them."""

    def __iter__(self) -> Iterator[Block]:
        """Read everything once more: the same blocks each time."""
        bytes_before, records_left = 0, self.reading.max_documents
        for source in self._sources:
            for block in self._blocks(source, bytes_before, records_left):
                yield block
                if records_left is not None:
                    records_left -= block.num_records
                    if records_left <= 0:
                        return
            bytes_before += source.num_bytes

    def texts(self, on_error: OnError = stop) -> Iterator[str]:
        """Parse in this process: the texts that are not empty, in order.

        Args:
            on_error: Called with each problem; `Counts.skip` goes on.
        """
        for block in self:
            for document in block.documents(on_error):
                if document.text and not document.text.isspace():
                    yield document.text

    def _blocks(self, source: _Source, bytes_before: int, limit: int | None) -> Iterator[Block]:
        reading, line = self.reading, 1
        is_table = source.kind == "rows"
        make = partial(
            Block,
            source=source.name,
            kind=source.kind,
            column=reading.column,
            is_chat=reading.chat_column is not None,
            split_on=reading.split_on,
        )
        try:
            for piece in self._pieces(source):
                num_records = piece.num_records if limit is None else min(piece.num_records, limit)
                digest = xxh64(piece.content)
                digest.update(b"%d" % num_records)
                yield make(
                    first=line,
                    digest=digest.hexdigest(),
                    num_bytes=piece.num_bytes,
                    num_records=num_records,
                    source_bytes_done=bytes_before + round(piece.done * source.num_bytes),
                    content=piece.content,
                )
                line += piece.num_lines
                limit = None if limit is None else limit - num_records
        except DamagedError as error:
            place = f"{source.name}, {'row' if is_table else 'line'} {line}"
            detail = f"{error}; what the file has from there on is lost"
            yield make(
                first=line,
                digest=xxh64(b"").hexdigest(),
                num_bytes=0,
                num_records=0,
                source_bytes_done=bytes_before + source.num_bytes,
                content=b"",
                loss=Problem(error.reason, place, detail),
            )

    def _pieces(self, source: _Source) -> Iterator[Piece]:
        reading = self.reading
        if source.path is None:
            name = source.name.removeprefix(DATASET_PREFIX)
            dataset = open_dataset(name, reading.split)
            return read_dataset(dataset, name, reading.column, reading.block_bytes)
        if source.kind == "rows":
            return read_parquet(source.path, reading.column, reading.block_bytes)
        is_text = source.kind == "text"
        return read_bytes(
            source.path,
            end=reading.split_on if is_text else "\n",
            fold_newlines=is_text,
            block_bytes=reading.block_bytes,
        )


def _find(source: str) -> Iterator[tuple[str, _Source]]:
    """Yield what a source stands for, each with what tells it from others."""
    if source.startswith(DATASET_PREFIX) or is_saved_dataset(Path(source)):
        yield source.removeprefix(DATASET_PREFIX), _Source(source, "rows", None, 0)
        return
    for path in _matching_files(source):
        name = path.name.lower()
        is_compressed = name.endswith(COMPRESSED)
        suffix = Path(Path(name).stem if is_compressed else name).suffix
        kind = KINDS.get(suffix)
        if kind is None or (kind == "rows" and is_compressed):
            raise ValueError(
                f"{path}: unknown kind of file {''.join(path.suffixes[-2:])!r}; use {NAMES}"
            )
        if suffix == ".json" and is_one_value(path):
            raise ValueError(
                f"{path} holds one JSON value, not an object on each line; write one object to a "
                "line, for example with jq -c '.[]'"
            )
        yield str(path.resolve()), _Source(str(path), kind, path, path.stat().st_size)


def _matching_files(source: str) -> list[Path]:
    path = at_home(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        raise ValueError(f"{source} is a folder; name its files, for example {source}/*.jsonl")
    # Path.glob takes no absolute patterns.
    found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
    files = [Path(name) for name in found if Path(name).is_file()]
    if not files:
        raise ValueError(f"no file matches {source}; check the path")
    return files

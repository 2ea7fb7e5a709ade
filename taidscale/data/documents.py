"""What texts a source holds."""

import glob
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

DATASET_PREFIX = "datasets:"
LINES_PER_BLOCK = 4096
ROWS_PER_BATCH = 1024


@dataclass
class Documents:
    """The non-empty texts of some sources, in order.

    Args:
        sources: Files or globs (`.txt`, `.jsonl`, both also with `.gz`, and `.parquet`),
            folders saved by `datasets.save_to_disk`, or `datasets:NAME[:CONFIG]`.
        text_column: Where JSONL, Parquet and datasets keep the text.
        split_on: Ends a document inside a text file, whose documents then lose the white
            space around them. Without it a file is one document.
        split: Split of a dataset.

    Raises:
        ValueError: A source matches no file or has an unknown kind; while iterating, a
            text that cannot be read, with its file and line.
    """

    sources: Sequence[str]
    text_column: str = "text"
    split_on: str | None = None
    split: str = "train"
    num_empty: int = field(default=0, init=False)
    """Empty documents passed over in the present iteration."""

    def __post_init__(self) -> None:
        """Resolve the sources, so that a wrong name fails before hours of work."""
        if self.split_on == "":
            raise ValueError("split_on is empty; give a text that ends a document, or leave it out")
        readers = [reader for source in self.sources for reader in self._readers(source)]
        self._texts = list(dict(readers).values())  # overlapping globs name a file twice

    def __iter__(self) -> Iterator[str]:
        """Read everything once more."""
        self.num_empty = 0
        for texts in self._texts:
            for text in texts():
                if text and not text.isspace():
                    yield text
                else:
                    self.num_empty += 1

    def _readers(self, source: str) -> Iterator[tuple[str, Callable[[], Iterable[str]]]]:
        if source.startswith(DATASET_PREFIX) or _is_saved_dataset(Path(source)):
            name = source.removeprefix(DATASET_PREFIX)
            yield source, lambda: _read_dataset(name, self.split, self.text_column)
            return
        for path in _matching_files(source):
            yield str(path), self._file_reader(path)

    def _file_reader(self, path: Path) -> Callable[[], Iterable[str]]:
        suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
        match suffix:
            case ".txt" | ".txt.gz":
                return lambda: _read_text(path, self.split_on)
            case ".jsonl" | ".jsonl.gz":
                return lambda: _read_jsonl(path, self.text_column)
            case ".parquet":
                return lambda: _read_parquet(path, self.text_column)
            case _:
                raise ValueError(
                    f"{path}: unknown kind of file {suffix!r}; "
                    "use .txt, .jsonl (both also .gz) or .parquet"
                )


def _matching_files(source: str) -> list[Path]:
    path = Path(source).expanduser()
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


# --- text and JSONL -------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            # Bytes, not text: only so does a broken character have a line number.
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start} of the "
            "line); convert the file to UTF-8"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}, after line {number}: cannot be read ({error})") from error


def _read_text(path: Path, split_on: str | None) -> Iterator[str]:
    lines = (line for _, line in _lines(path))
    if split_on is None:
        yield "".join(lines)
        return
    rest = ""
    # In blocks, so that neither the file nor the time for one long document explodes.
    while block := "".join(islice(lines, LINES_PER_BLOCK)):
        *documents, rest = (rest + block).split(split_on)
        yield from (document.strip() for document in documents)
    if rest := rest.strip():  # a separator at the very end starts no further document
        yield rest


def _read_jsonl(path: Path, column: str) -> Iterator[str]:
    for number, line in _lines(path):
        if line.isspace():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: broken JSON ({error.msg}, column {error.colno})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: a {type(row).__name__} instead of a JSON object")
        yield _text_of(row, column, where)


def _text_of(row: dict[str, Any], column: str, where: str) -> str:
    _check_column(column, list(row), where)
    text = row[column]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError(
            f"{where}: column {column!r} holds a {type(text).__name__} instead of a text; "
            "choose another text column"
        )
    return text


def _check_column(column: str, columns: Sequence[str], where: str) -> None:
    if column not in columns:
        raise ValueError(
            f"{where}: no column {column!r}; choose the text column among "
            f"{', '.join(columns) or 'none'}"
        )


# --- tables ---------------------------------------------------------------------------
# Their libraries load late: a run that reads none of them need not wait for the import.


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            _check_column(column, table.schema_arrow.names, str(path))
            for batch in table.iter_batches(batch_size=ROWS_PER_BATCH, columns=[column]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    yield _text_of({column: text}, column, f"{path}, row {row}")
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path}, after row {row}: cannot be read ({error})") from error


def _is_saved_dataset(folder: Path) -> bool:
    folder = folder.expanduser()
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _read_dataset(name: str, split: str, column: str) -> Iterator[str]:
    dataset = _open_dataset(name, split)
    if dataset.column_names:  # unknown for some streams
        _check_column(column, dataset.column_names, f"dataset {name}")
        dataset = dataset.select_columns([column])
    for number, row in enumerate(dataset, 1):
        yield _text_of(row, column, f"dataset {name}, row {number}")


def _open_dataset(name: str, split: str) -> Any:
    import datasets

    try:
        if _is_saved_dataset(Path(name)):
            saved = datasets.load_from_disk(str(Path(name).expanduser()))
            if isinstance(saved, datasets.Dataset):
                return saved
            if split not in saved:
                raise ValueError(f"no split {split!r}; choose among {', '.join(saved)}")
            return saved[split]
        repository, _, config = name.partition(":")
        return datasets.load_dataset(repository, config or None, split=split, streaming=True)
    except Exception as error:  # the library and the Hub client raise many types
        reason = shorten(str(error), width=300, placeholder=" ...")
        raise ValueError(f"cannot read dataset {name}, split {split!r}: {reason}") from error

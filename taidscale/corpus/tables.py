"""How rows of Parquet files and datasets are cut into pieces without looking at them.

Their libraries load late: a run that reads none of them need not wait for the import.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

from taidscale.corpus.columns import find_path, no_column, outermost, take_column
from taidscale.corpus.reading import DamagedError, Piece
from taidscale.home import at_home

ROWS_PER_BATCH = 256


def read_parquet(path: Path, column: str, block_bytes: int) -> Iterator[Piece]:
    """Read a column of a Parquet file.

    Yields:
        The pieces, cut between batches of some hundred rows.

    Raises:
        DamagedError: The file, or the rest of it, cannot be decoded, or lacks the column.
        OSError: The disk fails.
    """
    import pyarrow  # late: dear, and texts do without
    import pyarrow.parquet

    num_rows = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if find_path(file.schema_arrow, column) is None:
                raise DamagedError("no such column", no_column(column, names))
            batches = file.iter_batches(batch_size=ROWS_PER_BATCH, columns=[column])
            tables = (take_column(pyarrow.Table.from_batches([batch]), column) for batch in batches)
            for rows in _gather(tables, block_bytes):
                num_rows += rows.num_rows
                yield _piece_of(rows, done=num_rows / file.metadata.num_rows)
    except (OSError, pyarrow.ArrowException) as error:
        if getattr(error, "errno", None):  # not the file but the disk
            raise
        raise DamagedError("damaged file", f"cannot be read ({_short(error)})") from error


def read_dataset(dataset: Any, name: str, column: str, block_bytes: int) -> Iterator[Piece]:
    """Read a column of a dataset from `open_dataset`.

    Raises:
        ValueError: It cannot be read on, or lacks the column. A stream that breaks off is
            no damage that could be skipped: the next try may well read it.
    """
    if dataset.column_names:  # unknown for some streams
        outer = outermost(dataset.column_names, column)
        if outer is None:
            raise ValueError(f"dataset {name}: {no_column(column, dataset.column_names)}")
        dataset = dataset.select_columns([outer])
    num_rows = 0
    try:
        for rows in _gather(_column_of(dataset, column), block_bytes):
            num_rows += rows.num_rows
            yield _piece_of(rows, done=0.0)
    except Exception as error:  # the library and the Hub client raise many types
        raise ValueError(f"dataset {name}, after row {num_rows}: {_short(error)}") from error


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote a folder."""
    folder = at_home(folder)
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def open_dataset(name: str, split: str) -> Any:
    """Open a saved dataset, or a stream of `NAME[:CONFIG]`.

    Raises:
        ValueError: There is none, or not this split.
    """
    import datasets  # late: dear, and texts do without

    try:
        if is_saved_dataset(Path(name)):
            saved = datasets.load_from_disk(str(at_home(name)))
            if isinstance(saved, datasets.Dataset):
                return saved
            if split not in saved:
                raise ValueError(f"no split {split!r}; choose among {', '.join(saved)}")
            return saved[split]
        repository, _, config = name.partition(":")
        return datasets.load_dataset(repository, config or None, split=split, streaming=True)
    except Exception as error:  # the library and the Hub client raise many types
        raise ValueError(f"cannot read dataset {name}, split {split!r}: {_short(error)}") from error


def _column_of(dataset: Any, column: str) -> Iterator[Any]:
    for table in dataset.with_format("arrow").iter(batch_size=ROWS_PER_BATCH):
        taken = take_column(table, column)
        if taken is None:
            raise ValueError(no_column(column, table.column_names))
        yield taken


def _gather(tables: Iterable[Any], block_bytes: int) -> Iterator[Any]:
    """Join tables until they have enough bytes or the next has another schema."""
    import pyarrow  # late: dear, and texts do without

    held: list[Any] = []
    num_bytes = 0
    try:
        for table in tables:
            if held and table.schema != held[0].schema:
                yield pyarrow.concat_tables(held)
                held, num_bytes = [], 0
            held.append(table)
            num_bytes += table.nbytes
            if num_bytes >= block_bytes:
                yield pyarrow.concat_tables(held)
                held, num_bytes = [], 0
    except Exception:
        if held:
            yield pyarrow.concat_tables(held)
        raise
    if held:
        yield pyarrow.concat_tables(held)


def _piece_of(rows: Any, done: float) -> Piece:
    import pyarrow  # late: dear, and texts do without

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    content = sink.getvalue().to_pybytes()
    return Piece(content, rows.nbytes, rows.num_rows, rows.num_rows, done)


def _short(error: Exception) -> str:
    return shorten(str(error) or repr(error), width=300, placeholder=" ...")

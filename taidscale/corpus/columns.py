"""Where in a row is a column, which may be nested: `metadata.text` is `text` in `metadata`?

A column whose own name holds the dot comes first.
"""

from collections.abc import Iterable, Iterator
from typing import Any


def no_column(column: str, columns: Iterable[str]) -> str:
    """What to say where a column is missing."""
    return f"no column {column!r}; choose the column among {', '.join(columns) or 'none'}"


def find_value(row: dict[str, Any], column: str) -> Any:
    """The value of a column in a JSON object; None, too, where what should hold it is null.

    Raises:
        KeyError: There is no such column.
    """
    if column in row:
        return row[column]
    for outer, inner in _splits(column):
        if outer in row:
            value = row[outer]
            if value is None:
                return None
            if isinstance(value, dict):
                return find_value(value, inner)
    raise KeyError(column)


def find_path(schema: Any, column: str) -> list[str] | None:
    """The names that lead to a column, from the outermost; None where there is none.

    Args:
        schema: Of Arrow: a schema, or the type of a struct.
        column: As the user writes it.
    """
    import pyarrow  # late: a run that reads no rows need not wait for the import

    fields = {field.name: field.type for field in schema}
    if column in fields:
        return [column]
    for outer, inner in _splits(column):
        if outer in fields and pyarrow.types.is_struct(fields[outer]):
            path = find_path(fields[outer], inner)
            if path is not None:
                return [outer, *path]
    return None


def outermost(columns: Iterable[str], column: str) -> str | None:
    """The column of a table that is, or may hold, the one that is wanted."""
    wanted = [column, *(outer for outer, _ in _splits(column))]
    return next((name for name in wanted if name in set(columns)), None)


def take_column(rows: Any, column: str) -> Any:
    """A table of one column out of an Arrow table; None where it has no such column."""
    import pyarrow  # late: dear, and texts do without
    import pyarrow.compute

    path = find_path(rows.schema, column)
    if path is None:
        return None
    values = rows.column(path[0])
    if path[1:]:
        values = pyarrow.compute.struct_field(values, path[1:])
    return pyarrow.table({column: values})


def _splits(column: str) -> Iterator[tuple[str, str]]:
    """Yield what may hold a nested column, the longest name first, and the rest."""
    place = column.rfind(".")
    while place > 0:
        yield column[:place], column[place + 1 :]
        place = column.rfind(".", 0, place)

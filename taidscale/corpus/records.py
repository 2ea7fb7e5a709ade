"""How a raw record becomes a document."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal

from taidscale.corpus.columns import find_value, no_column
from taidscale.data.counts import OnError, Problem, stop

BYTE_ORDER_MARK = "\ufeff"
"""Before a record where files were joined."""
Kind = Literal["text", "jsonl", "rows"]


@dataclass(frozen=True)
class Document:
    """A text or a chat, possibly an empty one, and where it stands."""

    place: str
    """File and line, or dataset and row."""
    text: str | None
    """None for a chat."""
    messages: list[dict[str, Any]] | None = None
    """Of a chat: each has a `role` and, unless it calls tools, a `content`."""


@dataclass(frozen=True)
class Block:
    """Consecutive raw records of one source: picklable, parsed by whoever gets it."""

    source: str
    """File or dataset, as the user would name it."""
    first: int
    """Line or row, from 1, of its first record."""
    digest: str
    """xxh64 of the content, in hexadecimal: the same input gives the same digest."""
    num_bytes: int
    """Uncompressed bytes in it."""
    num_records: int
    """Records to take from its content, blank and broken ones included."""
    source_bytes_done: int
    """Bytes on disk, of all sources, that this block and those before it took; 0 if unknown."""
    kind: Kind
    column: str
    """Where rows keep the text or the chat."""
    is_chat: bool
    split_on: str | None
    """Ends a document in a text; None if all of it is one document."""
    content: bytes
    """The lines or texts as they are, or rows as a stream of Arrow's IPC format."""
    loss: Problem | None = None
    """Why what follows in the source could not be read; the block is then its last."""

    def documents(self, on_error: OnError = stop) -> Iterator[Document]:
        """Parse the records, in order.

        Args:
            on_error: Called with each record that cannot be used, and last with `loss`.

        Raises:
            ValueError: From `stop`, the default.
        """
        parse = {"text": self._texts, "jsonl": self._lines, "rows": self._rows}[self.kind]
        for record in parse() if self.num_records else ():
            if isinstance(record, Problem):
                on_error(record)
            else:
                yield record
        if self.loss is not None:
            on_error(self.loss)

    def _texts(self) -> Iterator[Document | Problem]:
        line = self.first
        for raw in self._split(self.split_on):
            text = _decode(raw, self.source, line)
            if isinstance(text, Problem):
                yield text
            else:
                yield Document(
                    f"{self.source}, line {line}",
                    text if self.split_on is None else _stripped(text),
                )
            line += raw.count(b"\n")
            if self.split_on is not None:
                line += self.split_on.count("\n")

    def _lines(self) -> Iterator[Document | Problem]:
        # Only \n ends a line: str.splitlines would cut at U+2028 inside a JSON string.
        for number, raw in enumerate(self._split("\n"), self.first):
            if not raw or raw.isspace():
                continue
            text = _decode(raw, self.source, number)
            if isinstance(text, Problem):
                yield text
            elif text := text.lstrip(BYTE_ORDER_MARK).rstrip():
                yield self._line(text, f"{self.source}, line {number}")

    def _line(self, text: str, place: str) -> Document | Problem:
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            detail = f"broken JSON ({error.msg}, column {error.colno}); correct the line"
            return Problem("broken JSON", place, detail)
        except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
            return Problem("broken JSON", place, f"JSON that cannot be read ({error})")
        if not isinstance(row, dict):
            return Problem(
                "not a JSON object",
                place,
                f"a {type(row).__name__} instead of a JSON object; write one object to a line",
            )
        try:
            value = find_value(row, self.column)
        except KeyError:
            return Problem("no such column", place, no_column(self.column, row))
        return self._document(value, place)

    def _rows(self) -> Iterator[Document | Problem]:
        import pyarrow  # late: a run that reads no rows need not wait for the import

        batches = pyarrow.ipc.open_stream(self.content)
        values = chain.from_iterable(batch.column(0) for batch in batches)
        for number, value in enumerate(islice(values, self.num_records), self.first):
            place = f"{self.source}, row {number}"
            try:
                yield self._document(value.as_py(), place)
            except UnicodeDecodeError as error:
                yield Problem("not UTF-8", place, f"not UTF-8 ({error}); write the row again")

    def _split(self, end: str | None) -> list[bytes]:
        if end is None:
            return [self.content]
        pieces = self.content.split(end.encode())
        return pieces[: self.num_records]  # what ends the last record starts no further one

    def _document(self, value: object, place: str) -> Document | Problem:
        if self.is_chat:
            return _chat(value, self.column, place)
        if value is None:
            return Document(place, "")
        if not isinstance(value, str):
            return _wrong_type(self.column, value, "a text", place)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                return _lone_surrogate(error, place)
        return Document(place, value)


def _stripped(text: str) -> str:
    return text.strip().lstrip(BYTE_ORDER_MARK).lstrip()


def _chat(value: object, column: str, place: str) -> Document | Problem:
    if value is None:
        return Document(place, None, [])
    if not isinstance(value, list):
        return _wrong_type(column, value, "a list of messages", place)
    messages = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            return _bad_chat(place, number, f"is a {type(message).__name__}")
        # Rows of a table have every key; templates ask whether there is one.
        message = {key: item for key, item in message.items() if item is not None}
        if not isinstance(message.get("role"), str):
            return _bad_chat(place, number, f"has no role but {', '.join(message) or 'nothing'}")
        if not isinstance(message.get("content", "" if "tool_calls" in message else None), str):
            return _bad_chat(place, number, "has no content that is a text")
        messages.append(message)
    try:
        json.dumps(messages, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        return _lone_surrogate(error, place)
    return Document(place, None, messages)


def _bad_chat(place: str, number: int, what: str) -> Problem:
    detail = f"message {number} of the chat {what}; each needs a role and a content, both texts"
    return Problem("bad chat", place, detail)


def _wrong_type(column: str, value: object, wanted: str, place: str) -> Problem:
    detail = (
        f"column {column!r} holds a {type(value).__name__} instead of {wanted}; "
        "choose another column"
    )
    return Problem("wrong type", place, detail)


def _lone_surrogate(error: UnicodeEncodeError, place: str) -> Problem:
    code = ord(error.object[error.start])
    return Problem(
        "not UTF-8", place, f"\\u{code:04x} is half a character; write the text again as UTF-8"
    )


def _decode(raw: bytes, source: str, line: int) -> str | Problem:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line += before.count(b"\n")
        byte = error.start - (before.rfind(b"\n") + 1)
        detail = f"not UTF-8 ({error.reason} at byte {byte} of the line); convert the file to UTF-8"
        return Problem("not UTF-8", f"{source}, line {line}", detail)

"""How a file of texts or lines is cut into pieces without parsing it."""

import bz2
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

PLAIN_BYTES = 1 << 20
"""Read at a time."""
COMPRESSED_BYTES = 1 << 14
"""Read at a time; they may hold some thousand times as much."""
MAX_RECORD_BYTES = 1 << 28
"""More than any text of the usual greatest length takes, even as escaped JSON."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Piece:
    """Consecutive raw records of a source."""

    content: bytes
    """The lines or texts as they are, or rows as a stream of Arrow's IPC format."""
    num_bytes: int
    num_records: int
    num_lines: int
    """Lines, or rows, that the next piece is further down."""
    done: float
    """Part of the source that was read up to here; 0 if unknown."""


class DamagedError(Exception):
    """What follows in a source cannot be used."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        """A few words, the same for all of its kind."""


def read_bytes(
    path: Path, *, end: str | None, fold_newlines: bool, block_bytes: int
) -> Iterator[Piece]:
    """Read a file of texts or lines, plain or compressed.

    Args:
        path: The file.
        end: Ends a record; None if the file is one.
        fold_newlines: Read a carriage return with a new line after it as the new line alone.
        block_bytes: A piece has the fewest records that have so many bytes.

    Yields:
        The pieces, all whole records before any damage among them.

    Raises:
        DamagedError: Compressed data are broken or break off; a record has no end.
        OSError: The disk fails.
    """
    size = max(path.stat().st_size, 1)
    with path.open("rb", buffering=0) as file:
        chunks = _without_marks(_chunks(file, path.suffix.lower()))
        if fold_newlines:
            chunks = _fold_newlines(chunks)
        ending = None if end is None else end.encode()
        for content in _cut(chunks, ending, block_bytes):
            num_records = 1
            if ending is not None:
                num_records = content.count(ending) + (not content.endswith(ending))
            num_lines = content.count(b"\n")
            yield Piece(content, len(content), num_records, num_lines, file.tell() / size)


def is_one_value(path: Path) -> bool:
    """Whether a file holds one JSON value, such as an array, and not an object on each line.

    Only its head is read; what cannot be is for the reading itself to report.
    """
    with path.open("rb", buffering=0) as file:
        try:
            head = next(_without_marks(_chunks(file, path.suffix.lower())), b"").lstrip()
        except DamagedError:
            return False
    line, newline, rest = head.partition(b"\n")
    if not newline or not rest.strip():
        return line.startswith(b"[")
    try:
        json.loads(line)
    except ValueError:
        return line.strip() in (b"{", b"[") or line.startswith(b"[")
    return line.startswith(b"[")


def _chunks(file: BinaryIO, suffix: str) -> Iterator[bytes | None]:
    """Yield what a file holds, decompressed, and None where another compressed one begins."""
    start: Callable[[], Any]
    match suffix:
        case ".gz":
            start = partial(zlib.decompressobj, wbits=31)
        case ".zst":
            # 2 GiB is what `zstd --long=31`, its largest window, needs.
            whole = zstandard.ZstdDecompressor(max_window_size=1 << 31)
            start = whole.decompressobj
        case ".bz2":
            start = bz2.BZ2Decompressor
        case ".xz":
            start = lzma.LZMADecompressor
        case _:
            return iter(lambda: file.read(PLAIN_BYTES), b"")
    return _decompressed(file, start)


def _decompressed(file: BinaryIO, start: Callable[[], Any]) -> Iterator[bytes | None]:
    decompressor, is_inside = start(), False
    while chunk := file.read(COMPRESSED_BYTES):
        # A file may be several compressed ones in a row, and gzip's may end in zeros.
        while chunk and (is_inside or (chunk := chunk.lstrip(b"\0"))):
            try:
                yield decompressor.decompress(chunk)
            except (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError) as error:
                raise DamagedError("damaged file", f"broken compressed data ({error})") from error
            chunk, is_inside = b"", True
            if decompressor.eof:
                chunk = decompressor.unused_data
                decompressor, is_inside = start(), False
                yield None
    if is_inside:
        raise DamagedError("damaged file", "the compressed data break off")


def _without_marks(chunks: Iterable[bytes | None]) -> Iterator[bytes]:
    """Take the byte order mark from the head of a file, and of each compressed one in it."""
    head: bytes | None = b""
    for chunk in chunks:
        if chunk is None:
            if head:
                yield head
            head = b""
        elif head is None:
            yield chunk
        else:
            head += chunk
            if len(head) >= len(BYTE_ORDER_MARK):
                yield head.removeprefix(BYTE_ORDER_MARK)
                head = None
    if head:
        yield head.removeprefix(BYTE_ORDER_MARK)


def _fold_newlines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    held = b""
    for chunk in chunks:
        joined = held + chunk
        held = b"\r" if joined.endswith(b"\r") else b""  # its new line may be yet to come
        yield joined.removesuffix(held).replace(b"\r\n", b"\n")
    yield held


def _cut(chunks: Iterable[bytes], end: bytes | None, block_bytes: int) -> Iterator[bytes]:
    """Yield runs of whole records; where the chunks begin and end makes no difference."""
    parts: list[bytes] = []
    needed = MAX_RECORD_BYTES if end is None else block_bytes
    size = 0
    try:
        for chunk in chunks:
            parts.append(chunk)
            size += len(chunk)
            if size < needed:
                continue
            *blocks, rest = _whole_blocks(b"".join(parts), end, block_bytes)
            yield from blocks
            parts, size = [rest], len(rest)
            if size >= MAX_RECORD_BYTES + (0 if end is None else block_bytes):
                raise DamagedError(
                    "too long",
                    f"a record of more than {MAX_RECORD_BYTES:,} bytes; give the text that ends "
                    "a document (--split-on) or, in JSONL, write one object to a line",
                )
            # Twice as much before the next search, or a long record would be joined and
            # searched again with each chunk.
            needed = block_bytes if size < block_bytes else 2 * size
    except DamagedError:
        rest = b"".join(parts)
        if end is not None and end in rest:  # what follows may lack something
            rest = rest[: rest.rindex(end) + len(end)]
            yield from filter(None, _whole_blocks(rest, end, block_bytes))
        raise
    yield from filter(None, _whole_blocks(b"".join(parts), end, block_bytes))


def _whole_blocks(content: bytes, end: bytes | None, block_bytes: int) -> Iterator[bytes]:
    """Yield the blocks that are complete, and what is left last."""
    start = 0
    while end is not None and len(content) - start >= block_bytes:
        found = content.find(end, start + max(block_bytes - len(end), 0))
        if found < 0:
            break
        yield content[start : found + len(end)]
        start = found + len(end)
    yield content[start:]

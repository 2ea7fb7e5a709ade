"""Files and folders that are there whole, or not at all, also after a power cut.

Nothing else in the package gives something written its name. What is written aside lies beside
it as `NAME.partial` until then.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def flush_to_disk(path: Path) -> None:
    """Wait until a file's, or folder's, content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    """Let what is on the disk already take another name, in one go.

    Raises:
        OSError: if it cannot, or `new` is a folder that holds something.
    """
    os.replace(old, new)
    flush_to_disk(new.parent)


def replace_file(
    path: Path, content: str | bytes, *, shared: bool = False, flush: bool = True
) -> None:
    """Write a file aside, flush it, and let it take its name.

    Args:
        path: of the file.
        content: all of it; text as UTF-8.
        shared: whether several processes, on whatever hosts, may write it at once.
        flush: False for what nobody wants after a power cut, where waiting for the disk is dear.

    Raises:
        OSError: if it cannot be written; what was there stays.
    """
    with written_aside(path, shared=shared, flush=flush) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def written_aside(path: Path, *, shared: bool = False, flush: bool = True) -> Iterator[Path]:
    """Where to write what shall be the file `path`, once all of it is there.

    Args:
        path: of the file; what was there stays if an error is raised within.
        shared: as `replace_file`.
        flush: likewise.
    """
    own = f".{socket.gethostname()}.{os.getpid()}" if shared else ""
    aside = path.with_name(f"{path.name}{own}.partial")
    try:
        yield aside
        if flush:
            flush_to_disk(aside)
            rename(aside, path)
        else:
            os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def folder_written_aside(folder: Path) -> Iterator[Path]:
    """Where to make what shall be `folder`, once all of it is there; nothing stays after an error.

    Args:
        folder: must not exist, or be empty.
    """
    aside = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    try:
        yield aside
        rename_folder(aside, folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def rename_folder(aside: Path, folder: Path) -> None:
    """Flush all that is in a folder, and let it take its name.

    Raises:
        OSError: as `rename`.
    """
    for path in (*aside.rglob("*"), aside):
        flush_to_disk(path)
    rename(aside, folder)

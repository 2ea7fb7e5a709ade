"""What is there of a preparation that is not done? `prepare.py` shows the folder."""

import errno
import fcntl
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from taidscale.corpus.packing import Row
from taidscale.corpus.parts import Part
from taidscale.corpus.records import Block
from taidscale.durable import replace_file

log = logging.getLogger(__name__)


class FinishedPart(Part):
    """A part, and the blocks that it was made of."""

    blocks: list[tuple[str, int, str]]
    """Source, first record and digest of each."""
    source_bytes_done: int
    """See `Block`; of the last."""

    def check_blocks(self, blocks: Sequence[Block], folder: Path) -> None:
        """Make sure that the blocks are the same as when the part was made.

        Raises:
            ValueError: They are not.
        """
        now = [(block.source, block.first, block.digest) for block in blocks]
        for old, new in zip_longest(self.blocks, now):
            if old != new:
                was, is_now = (
                    f"{x[0]} from record {x[1]} on (digest {x[2]})" if x else "nothing"
                    for x in (old, new)
                )
                raise ValueError(
                    f"the input has changed: what was {was} is now {is_now}; put it back, or "
                    f"delete {folder} to begin again"
                )


@dataclass(frozen=True)
class Unfinished:
    """The folder of a preparation.

    Args:
        folder: Where it is.
        remote: Where finished shards go, in a bucket; None if they stay.
    """

    folder: Path
    remote: str | None = None

    @property
    def settings(self) -> Path:
        """The file with the settings."""
        return self.folder / "settings.json"

    @property
    def shards(self) -> Path:
        """The folder of the shards."""
        return self.folder / "shards"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Work here alone; nothing stays if no part was finished.

        Raises:
            ValueError: Another process works here, or the folder cannot be made.
        """
        try:
            for name in ("parts", "shards"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ValueError(
                f"{self.folder} cannot be made ({error.strerror}); choose another output"
            ) from None
        with (self.folder / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ValueError(
                    f"{self.folder} is in use by process {file.read().strip()}; wait for it, end "
                    "it, or choose another output"
                ) from None
            except OSError as error:
                log.warning("%s cannot be locked (%s); start this only once", self.folder, error)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield
            finally:
                if self.folder.is_dir() and not any((self.folder / "parts").iterdir()):
                    shutil.rmtree(self.folder)

    def agree(self, settings: dict[str, Any]) -> None:
        """Note the settings, or compare them with those of what is here; drop broken parts.

        Raises:
            ValueError: They are others.
        """
        if self.settings.is_file():
            old, new = _flat(json.loads(self.settings.read_text())), _flat(settings)
            changes = [
                f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
                for name in dict.fromkeys([*old, *new])
                if old.get(name) != new.get(name)
            ]
            if changes:
                raise ValueError(
                    f"{self.folder} was begun with other settings: {'; '.join(changes)}. Use the "
                    "same to go on, or delete it to begin again"
                )
        replace_file(self.settings, json.dumps(settings, indent=2))
        for folder in self.shards.iterdir():
            if not folder.is_dir() or self.read(int(folder.name)) is None:
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()

    def part_folder(self, number: int) -> Path:
        """Where the shards of a part go."""
        return self.shards / f"{number:05}"

    def read(self, number: int) -> FinishedPart | None:
        """A finished part; None if it has to be made."""
        path = self._record(number)
        if not path.is_file():
            return None
        part = FinishedPart.model_validate_json(path.read_text())
        files = [] if self.remote else [shard["raw_data"] for shard in part.shards]
        for file in files:
            shard = self.shards / file["basename"]
            if not shard.is_file() or shard.stat().st_size != file["bytes"]:
                return None
        return part

    def write(self, number: int, part: FinishedPart, rest: Row) -> None:
        """Note that a part is finished: its shards are where they belong."""
        if len(rest.tokens):
            arrays = {name: array for name, array in vars(rest).items() if array is not None}
            content = io.BytesIO()  # numpy complains twice where a disk is full
            np.savez(content, **arrays)
            replace_file(self._record(number).with_suffix(".npz"), content.getvalue())
        replace_file(self._record(number), part.model_dump_json())

    def rest(self, number: int) -> Row | None:
        """What filled no sample of a finished part."""
        path = self._record(number).with_suffix(".npz")
        if not path.is_file():
            return None
        with np.load(path) as arrays:
            return Row(**arrays)

    def expect_no_more(self, num_parts: int) -> None:
        """Make sure that there are no parts beyond those of the input.

        Raises:
            ValueError: There are.
        """
        if self._record(num_parts).is_file():
            raise ValueError(
                f"the input has changed: it has {num_parts} parts now and had more; put it back, "
                f"or delete {self.folder} to begin again"
            )

    def _record(self, number: int) -> Path:
        return self.folder / "parts" / f"{number:05}.json"


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat

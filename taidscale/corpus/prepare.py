"""How does a corpus become shards: on all cores, and on after a kill where it stopped?

The input comes in blocks, and the same blocks become part 12, whoever makes it and whenever:
the shards depend on the input and the settings alone. Until all is done it lies in `OUT.partial`
(for a bucket, in a scratch folder, and shards only until they are uploaded):

    lock                held by the process that works here
    settings.json       what shapes the shards
    parts/00012.json    part 12 is finished, and this is in it
    parts/00012.npz     its last tokens, which filled no sample; those of all fill the last part
    shards/00012/...    becomes OUT
"""

import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taidscale.corpus.boundaries import Boundaries
from taidscale.corpus.documents import Reading, Sources
from taidscale.corpus.encoding import Encoder, EncodingSettings
from taidscale.corpus.part_maker import PartMaker, Progress, make_parts
from taidscale.corpus.parts import (
    SHARD_BYTES,
    Layout,
    Part,
    free_folder,
    write_manifest,
)
from taidscale.corpus.unfinished import Unfinished
from taidscale.corpus.upload import check_bucket, upload
from taidscale.data.counts import Counts
from taidscale.data.manifest import FORMAT_VERSION, INDEX_NAME, MANIFEST_NAME, Manifest, Packing
from taidscale.data.overlap import HASHES_NAME
from taidscale.data.tokenizer import fingerprint
from taidscale.data.unknown import ALLOWED_SHARE, check_unknown
from taidscale.durable import rename_folder
from taidscale.home import at_home


def prepare(
    inputs: Sequence[str],
    out: str | Path,
    reading: Reading,
    encoding: EncodingSettings,
    *,
    seq_len: int,
    packing: Packing = "concatenate",
    separator_id: int | None = None,
    bos: bool = False,
    num_workers: int = 0,
    scratch: str | Path | None = None,
    size_limit: int = SHARD_BYTES,
    allow_unknown: float = ALLOWED_SHARE,
    progress: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Read, encode, pack and write; the same call goes on where an earlier one was ended.

    Args:
        inputs: Files, globs, folders and datasets; see `Sources`.
        out: Folder to write, absent or empty, or a place in a bucket such as `s3://bucket/data`.
        reading: How to read the inputs.
        encoding: How to encode documents, and which.
        seq_len: Tokens that a sample predicts.
        packing: How documents share samples.
        separator_id: Put after each document; by default see `Boundaries`.
        bos: Put the tokenizer's first token before each document that does not begin with it.
        num_workers: Processes beside this one; 0 does everything here.
        scratch: Folder for what is not uploaded yet; only for a bucket.
        size_limit: Bytes of a shard at most.
        allow_unknown: Share of the characters that the tokenizer need not know, of the parts
            that are finished, whichever these are.
        progress: Told of each part, in order.

    Raises:
        ValueError: A setting, the input or the place to write is unusable, or not what it was
            when an earlier call was ended; the disk is full; a worker was killed.
        OSError: The disk fails.

    Memory: two blocks per worker here, and what a block becomes in each worker.
    """
    if num_workers < 0:
        raise ValueError(f"--workers ({num_workers}) must not be negative")
    if not 0 <= allow_unknown <= 1:
        raise ValueError(f"--allow-unknown ({allow_unknown}) must be a share, from 0 to 1")
    sources, encoder = Sources(inputs, reading), Encoder(encoding)
    boundaries = _boundaries(encoder, reading, separator_id, bos)
    layout = Layout(
        seq_len,
        packing,
        boundaries.separator_id,
        boundaries.bos_id,
        encoder.tokenizer.size,
        has_weights=encoding.loss_on == "assistant",
        separate=boundaries.separate,
    )
    remote = str(out).rstrip("/") if "://" in str(out) else None
    folder = _scratch_folder(remote, scratch) if remote else free_folder(out)
    unfinished = Unfinished(folder.with_name(folder.name + ".partial"), remote)
    settings = {
        "format_version": FORMAT_VERSION,
        "inputs": list(inputs),
        "out": str(out),
        "reading": reading.model_dump(),
        "encoding": encoding.model_dump(),
        "fingerprint": fingerprint(encoder.tokenizer.vocabulary()),
        "size_limit": size_limit,
        **vars(layout),
    }
    with unfinished.locked(), _explained(unfinished.folder):
        unfinished.agree(settings)
        if remote:
            check_bucket(remote, unfinished.settings)
        maker = PartMaker(unfinished, encoder, layout, size_limit)
        judge = _Judge(encoder.tokenizer.name, allow_unknown, unfinished.folder, progress)
        parts = make_parts(sources, maker, num_workers, judge)
        unfinished.expect_no_more(len(parts))
        return _publish(maker, parts, folder, settings, boundaries.remarks)


def _publish(
    maker: PartMaker,
    parts: Sequence[Part],
    folder: Path,
    settings: dict[str, Any],
    remarks: Sequence[str],
) -> Manifest:
    """Write what joins the parts, and make all visible at once."""
    unfinished = maker.unfinished
    last, num_dropped = maker.make_last(len(parts))
    try:
        manifest = write_manifest(
            unfinished.shards,
            [*parts, last],
            layout=maker.layout,
            tokenizer=maker.encoder.tokenizer.name,
            fingerprint=settings["fingerprint"],
            num_dropped_tokens=num_dropped,
            sources=settings["inputs"],
            settings={name: settings[name] for name in ("reading", "encoding")},
            remarks=remarks,
        )
    except ValueError:  # too little text, which nothing can go on from
        shutil.rmtree(unfinished.folder)
        raise
    if unfinished.remote:
        for name in (
            HASHES_NAME,
            INDEX_NAME,
            MANIFEST_NAME,
        ):  # the last to come says that all are there
            upload(unfinished.remote, unfinished.shards, name)
    else:
        for empty in unfinished.shards.glob("*/"):  # of blocks that filled no sample
            if not any(empty.iterdir()):
                empty.rmdir()
        rename_folder(unfinished.shards, folder)
    shutil.rmtree(unfinished.folder)
    return manifest


class _Judge:
    """Stops where the tokenizer does not know the text, hours before all is done.

    Args:
        tokenizer: Its name.
        allowed: Share of the characters that it need not know.
        folder: Of what is finished.
        progress: Told of each part that passes.
    """

    def __init__(
        self,
        tokenizer: str,
        allowed: float,
        folder: Path,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._tokenizer, self._allowed, self._folder = tokenizer, allowed, folder
        self._progress, self._counts = progress, Counts()

    def __call__(self, progress: Progress) -> None:
        if self._progress is not None:
            self._progress(progress)
        self._counts += progress.counts
        remedy = (
            "allow more with --allow-unknown, with which the same command goes on; for another "
            f"tokenizer delete {self._folder} first"
        )
        check_unknown(self._counts, self._tokenizer, self._allowed, remedy)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say what to do about troubles of the machine."""
    kept = f"finished parts stay in {folder}, and the same command goes on from there"
    try:
        yield
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process was killed, perhaps because memory was short; use fewer workers "
            f"(--workers) or smaller parts (--part-mb). {kept[0].upper()}{kept[1:]}"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(f"the disk of {folder} is full; make room: {kept}") from error


def _boundaries(
    encoder: Encoder, reading: Reading, separator_id: int | None, bos: bool
) -> Boundaries:
    chats = reading.chat_column is not None
    boundaries = Boundaries(encoder.tokenizer, separator_id, bos, chats)
    if encoder.settings.loss_on == "assistant":
        boundaries.note_weights()
    if chats:
        boundaries.remarks.append(
            "chats that share a sample see each other unless the run has data.attention: "
            "within_document"
        )
    return boundaries


def _scratch_folder(remote: str, scratch: str | Path | None) -> Path:
    """Where to prepare what goes to a bucket."""
    if scratch is None:
        raise ValueError(f"{remote} is in a bucket; choose a local folder with --scratch")
    return at_home(scratch).absolute() / remote.rpartition("/")[2]

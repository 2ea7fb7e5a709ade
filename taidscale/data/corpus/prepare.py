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
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taidscale.data.corpus.documents import Reading, Sources
from taidscale.data.corpus.encoding import Encoder, EncodingSettings
from taidscale.data.corpus.packing import Row, Samples
from taidscale.data.corpus.parts import (
    SHARD_BYTES,
    Layout,
    Part,
    choose_bos,
    choose_separator,
    free_folder,
    sync,
    write_manifest,
    write_samples,
)
from taidscale.data.corpus.records import Block
from taidscale.data.corpus.unfinished import FinishedPart, Unfinished
from taidscale.data.corpus.upload import check_bucket, upload
from taidscale.data.corpus.workers import start_workers
from taidscale.data.counts import Counts
from taidscale.data.manifest import FORMAT_VERSION, INDEX_NAME, MANIFEST_NAME, Manifest, Packing
from taidscale.data.tokenizer import fingerprint

BLOCKS_PER_WORKER = 2


@dataclass(frozen=True)
class Progress:
    """One more part is finished.

    Args:
        counts: What was read for it.
        bytes_done: Of the sources on disk, for this part and all before; 0 if unknown.
        bytes_total: Of the sources on disk; None if unknown.
        is_new: False if it was finished by an earlier run.
    """

    counts: Counts
    bytes_done: int
    bytes_total: int | None
    is_new: bool


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
        separator_id: Put after each document; by default the tokenizer's own.
        bos: Put the tokenizer's first token before each document.
        num_workers: Processes beside this one; 0 does everything here.
        scratch: Folder for what is not uploaded yet; only for a bucket.
        size_limit: Bytes of a shard at most.
        progress: Told of each part, in order.

    Raises:
        ValueError: A setting, the input or the place to write is unusable, or not what it was
            when an earlier call was ended; the disk is full; a worker was killed.
        OSError: The disk fails.

    Memory: two blocks per worker here, and what a block becomes in each worker.
    """
    if num_workers < 0:
        raise ValueError(f"--workers ({num_workers}) must not be negative")
    sources, encoder = Sources(inputs, reading), Encoder(encoding)
    layout = _layout(encoder, seq_len, packing, separator_id, bos)
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
        maker = _PartMaker(unfinished, encoder, layout, size_limit)
        parts = _make_parts(sources, maker, num_workers, progress)
        unfinished.expect_no_more(len(parts))
        return _publish(maker, parts, folder, settings)


def _publish(
    maker: "_PartMaker", parts: Sequence[Part], folder: Path, settings: dict[str, Any]
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
        )
    except ValueError:  # too little text, which nothing can go on from
        shutil.rmtree(unfinished.folder)
        raise
    if unfinished.remote:
        for name in (INDEX_NAME, MANIFEST_NAME):  # the last to come says that all are there
            upload(unfinished.remote, unfinished.shards, name)
    else:
        for empty in unfinished.shards.glob("*/"):  # of blocks that filled no sample
            if not any(empty.iterdir()):
                empty.rmdir()
        unfinished.shards.rename(folder)
        sync(folder.parent)
    shutil.rmtree(unfinished.folder)
    return manifest


@dataclass(frozen=True)
class _PartMaker:
    unfinished: Unfinished
    encoder: Encoder
    layout: Layout
    size_limit: int

    def make(self, number: int, blocks: Sequence[Block]) -> FinishedPart:
        """In a worker: encode, pack, write, upload, and note that it is done."""
        documents, counts = [], Counts()
        for block in blocks:
            more, more_counts = self.encoder(block)
            documents += more
            counts += more_counts
        row = self.layout.row([d.ids for d in documents], [d.weights for d in documents])
        samples, rest = self.layout.pack(row)
        part = FinishedPart(
            **vars(Part.of(row, samples, self.layout, counts, self._write(number, samples))),
            blocks=[(block.source, block.first, block.digest) for block in blocks],
            source_bytes_done=blocks[-1].source_bytes_done,
        )
        self.unfinished.write(number, part, rest)
        return part

    def make_last(self, num_parts: int) -> tuple[Part, int]:
        """The part made of what the others left, and how many tokens still fill no sample."""
        rests = [self.unfinished.rest(number) for number in range(num_parts)]
        nothing = self.layout.row([], [])
        row = Row.join([nothing, *(rest for rest in rests if rest is not None)])
        samples, rest = self.layout.pack(row)
        shards = self._write(num_parts, samples)
        # The tokens were counted with the parts that they come from.
        part = Part.of(nothing, samples, self.layout, Counts(), shards)
        return part, len(rest.tokens)

    def _write(self, number: int, samples: Samples) -> list[dict[str, Any]]:
        folder = self.unfinished.part_folder(number)
        shutil.rmtree(folder, ignore_errors=True)
        shards = write_samples(folder, samples, self.layout, self.size_limit)
        if self.unfinished.remote:
            for shard in shards:
                name = shard["raw_data"]["basename"]
                upload(self.unfinished.remote, self.unfinished.shards, name)
                (self.unfinished.shards / name).unlink()
        return shards


def _make_parts(
    sources: Sources,
    maker: _PartMaker,
    num_workers: int,
    progress: Callable[[Progress], None] | None,
) -> list[FinishedPart]:
    """All parts, in order."""
    if sources.num_bytes is not None and sources.num_bytes <= sources.reading.block_bytes:
        num_workers = 0  # one block; starting a process takes longer
    parts: list[FinishedPart] = []
    waiting: deque[tuple[Future[FinishedPart], bool]] = deque()

    def take() -> None:
        future, is_new = waiting.popleft()
        parts.append(part := future.result())
        if progress is not None:
            done = part.source_bytes_done
            progress(Progress(part.counts, done, sources.num_bytes, is_new))

    with start_workers(num_workers) as workers:
        for number, blocks in enumerate(_groups(sources)):
            finished = maker.unfinished.read(number)
            if finished is None:
                future = workers.submit(maker.make, number, blocks)
            else:
                finished.check_blocks(blocks, maker.unfinished.folder)
                future = Future()
                future.set_result(finished)
            waiting.append((future, finished is None))
            while len(waiting) > BLOCKS_PER_WORKER * num_workers:
                take()
        while waiting:
            take()
    return parts


def _groups(sources: Sources) -> Iterator[list[Block]]:
    """What parts are made of: many small sources together, so that shards are not small."""
    group: list[Block] = []
    num_bytes = 0
    for block in sources:
        group.append(block)
        num_bytes += block.num_bytes
        if num_bytes >= sources.reading.block_bytes:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


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


def _layout(
    encoder: Encoder, seq_len: int, packing: Packing, separator_id: int | None, bos: bool
) -> Layout:
    tokenizer = encoder.tokenizer
    return Layout(
        seq_len=seq_len,
        packing=packing,
        separator_id=choose_separator(tokenizer, separator_id),
        bos_id=choose_bos(tokenizer) if bos else None,
        vocab_size=tokenizer.size,
        has_weights=encoder.settings.loss_on == "assistant",
    )


def _scratch_folder(remote: str, scratch: str | Path | None) -> Path:
    """Where to prepare what goes to a bucket."""
    if scratch is None:
        raise ValueError(f"{remote} is in a bucket; choose a local folder with --scratch")
    return Path(scratch).expanduser().absolute() / remote.rpartition("/")[2]

"""Which process makes which part of a preparation, and when?"""

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from taidscale.corpus.documents import Sources
from taidscale.corpus.encoding import Encoder
from taidscale.corpus.packing import Row, Samples
from taidscale.corpus.parts import Layout, Part, write_samples
from taidscale.corpus.records import Block
from taidscale.corpus.unfinished import FinishedPart, Unfinished
from taidscale.corpus.upload import upload
from taidscale.corpus.workers import start_workers
from taidscale.data.counts import Counts

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


@dataclass(frozen=True)
class PartMaker:
    """Makes parts in whatever process it is sent to."""

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
        row = self.layout.row(
            [document.ids for document in documents],
            [document.weights for document in documents],
            [document.is_ended for document in documents],
        )
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


def make_parts(
    sources: Sources,
    maker: PartMaker,
    num_workers: int,
    progress: Callable[[Progress], None],
) -> list[FinishedPart]:
    """All parts, in order."""
    if sources.num_bytes is not None and sources.num_bytes <= sources.reading.block_bytes:
        num_workers = 0  # one block; starting a process takes longer
    parts: list[FinishedPart] = []
    waiting: deque[tuple[Future[FinishedPart], bool]] = deque()

    def take() -> None:
        future, is_new = waiting.popleft()
        parts.append(part := future.result())
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

"""Where tokens come from: streams, how they are mixed and read, and what is held out."""

import os
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from taidscale.config.section import Section, check
from taidscale.home import at_home

EvaluationName = Annotated[str, Field(pattern=r"^[^/]+$")]
Shuffle = Literal["py1e", "py1br", "py1s", "py2s"]


class StreamConfig(Section):
    """One folder of MDS shards, as `taidscale prepare` writes it."""

    name: Annotated[str, Field(min_length=1)] | None = None
    """In phases, reports and checkpoints; by default the last part of `local`."""
    local: str
    """Folder on this machine; the cache, where `remote` is set."""
    remote: str | None = None
    """Bucket or shared folder that the shards are fetched from."""
    proportion: NonNegativeFloat | None = None
    """Share of this stream in the mix, relative to the others'; set on all streams or on none."""
    repeat: PositiveFloat | None = None
    """Without proportions: how often the stream is read while one without is read once."""
    choose: PositiveInt | None = None
    """Samples of the stream that are read while another is read once; without proportions."""

    @property
    def stream_name(self) -> str:
        """`name`, or the last part of `local`."""
        return self.name or self.local.rstrip("/").rpartition("/")[2]

    @check
    def _one_weight(self) -> Iterator[str]:
        given = [n for n in ("proportion", "repeat", "choose") if getattr(self, n) is not None]
        if len(given) > 1:
            yield f"{' and '.join(given)} exclude each other; keep one of them"


class PhaseConfig(Section):
    """Another mix from some step on, for annealing say."""

    from_step: PositiveInt
    """Optimizer steps before it; the step after these is the first of the phase."""
    proportions: Annotated[dict[str, NonNegativeFloat], Field(min_length=1)]
    """Shares by name of the stream, relative to each other; streams left out are not read."""

    @field_validator("proportions")
    @classmethod
    def _something_is_read(cls, proportions: dict[str, float]) -> dict[str, float]:
        if not any(proportions.values()):
            raise ValueError("at least one proportion must be above 0")
        return proportions


class DataConfig(Section):
    """The training tokens."""

    streams: Annotated[list[StreamConfig], Field(min_length=1)]
    """Where they come from; each is read in epochs of its own, whatever its share."""
    phases: Annotated[list[PhaseConfig], Field(default_factory=list)]
    """Changes of the mix."""
    attention: Literal["across_documents", "within_document"] = "across_documents"
    """Whether a token sees the documents before its own in the same sequence, in both models.

    `within_document` costs sdpa a [B, S, S] mask and its fastest path, flash-attention nothing."""
    shuffle: bool = True
    """Whether the order of samples is random; without, each stream is read as it lies."""
    shuffle_algo: Shuffle = "py1e"
    """Shuffle algorithm of mosaicml-streaming."""
    shuffle_block_size: Annotated[int, Field(ge=16)] = 1 << 18
    """Samples of a stream within which one may move; should span several shards."""
    num_canonical_nodes: PositiveInt = 64
    """Parts of a stream that are read side by side.

    Up to as many nodes fetch mostly shards of their own. It fixes the order whatever the machines,
    so never change it in a run.
    """
    num_workers: NonNegativeInt = 2
    """Loader processes per rank."""
    prefetch_factor: PositiveInt = 4
    """Micro-batches that each loader process prepares ahead."""
    predownload_steps: NonNegativeInt = 16
    """Optimizer steps whose shards are fetched ahead from `remote`."""
    cache_limit: Annotated[str, Field(pattern=r"(?i)^\d+(\.\d+)?(kb|mb|gb|tb)$")] | None = None
    """Most that fetched shards take on a node's disk, such as 500gb: the coldest are deleted."""
    download_retry: NonNegativeInt = 8
    """Further attempts, with growing pauses, after a download that failed or is damaged."""
    download_timeout: PositiveFloat = 20.0
    """Seconds without an answer after which a request counts as failed.

    S3's client then sends it again some times, before `download_retry` does.
    """
    verify: bool = True
    """Compare a shard's hash before a process first reads from it, also of one that was here.

    Without, only what is fetched is compared, and the sizes of the rest.
    """

    def proportions_at(self, step: int) -> dict[str, float] | None:
        """The mix after `step` optimizer steps, by name of the stream; None if it goes by size."""
        phase = max(
            (phase for phase in self.phases if phase.from_step <= step),
            key=lambda phase: phase.from_step,
            default=None,
        )
        if phase is not None:
            return {s.stream_name: phase.proportions.get(s.stream_name, 0.0) for s in self.streams}
        if self.streams[0].proportion is None:
            return None
        return {stream.stream_name: stream.proportion or 0.0 for stream in self.streams}

    @check
    def _streams_are_apart(self) -> Iterator[str]:
        names = [stream.stream_name for stream in self.streams]
        for name in sorted({name for name in names if names.count(name) > 1 or not name}):
            yield f"several streams are called {name!r}; give each a name of its own"
        folders = [os.path.realpath(at_home(stream.local)) for stream in self.streams]
        for folder in sorted({folder for folder in folders if folders.count(folder) > 1}):
            yield f"several streams have {folder} as local; give each its own folder"
        proportions = [stream.proportion for stream in self.streams]
        if None in proportions and any(share is not None for share in proportions):
            yield "set proportion on all streams or on none"
        if not any(share is None or share > 0 for share in proportions):
            yield "at least one stream must have a proportion above 0"

    @check
    def _limit_is_of_a_cache(self) -> Iterator[str]:
        if self.cache_limit and not any(stream.remote for stream in self.streams):
            yield "cache_limit is of streams with remote, and there are none"

    @check
    def _phases_are_in_order(self) -> Iterator[str]:
        starts = [phase.from_step for phase in self.phases]
        if starts != sorted(set(starts)):
            yield f"phases must begin one after the other (from_step is {starts})"

    @check
    def _phases_name_streams(self) -> Iterator[str]:
        names = [stream.stream_name for stream in self.streams]
        for phase in self.phases:
            for name in sorted(set(phase.proportions) - set(names)):
                yield (
                    f"the phase from step {phase.from_step} names {name!r}, which is none of the "
                    f"streams {', '.join(names)}"
                )


class EvaluationConfig(Section):
    """How far the student is from the teacher, on held-out tokens."""

    data: str | Annotated[dict[EvaluationName, str], Field(min_length=1)]
    """Folder of MDS shards, or several by name, such as languages, each evaluated apart."""
    every_steps: PositiveInt
    """Optimizer steps between evaluations; there is always one at the end."""
    at_start: bool = True
    """Evaluate before the first step too."""
    max_samples: PositiveInt | None = None
    """Samples of each that are used, the first ones; all by default."""
    allow_training_data: bool = False
    """Start although all samples of a held-out set are among those to train on."""

    @property
    def folders(self) -> dict[str, str]:
        """Folder by name; a single one is called `held-out`."""
        return {"held-out": self.data} if isinstance(self.data, str) else self.data

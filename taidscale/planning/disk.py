"""Bytes on disks and in host memory."""

from dataclasses import dataclass

from taidscale.config.schema import CheckpointConfig
from taidscale.planning.workload import Workload

_SMALL_IDS = 1 << 16


@dataclass(frozen=True)
class Disk:
    """What the run's file system must hold."""

    data: int
    """Of the samples that the run reads, if it reads none twice."""
    checkpoint: int
    """Of one: float32 masters and two moments, and the model's own weights."""
    num_checkpoints: int
    """At once: those that are kept, and the one being written."""
    export: int
    """Of the student for Hugging Face, in the run's precision."""
    host_copy: int
    """Bytes of host memory of a node for a checkpoint that is written in the background."""

    @property
    def checkpoints(self) -> int:
        """All that exist at once."""
        return self.checkpoint * self.num_checkpoints


def disk(load: Workload) -> Disk:
    """Of the whole run."""
    config, total = load.config, load.student.num_parameters
    token = 2 if load.vocabulary <= _SMALL_IDS else 4  # as `data.sample_columns` writes them
    samples = config.total_steps * config.global_batch_size
    settings = config.checkpoint
    # Of float32 at stage 0 the masters are the weights.
    checkpoint = total * (12 if config.zero.stage == 0 else 12 + load.student_bytes)
    own = checkpoint * min(load.ranks_per_node, load.world_size) // load.world_size
    return Disk(
        data=samples * (config.seq_len + 1) * token,
        checkpoint=checkpoint,
        num_checkpoints=_most_checkpoints(settings, config.total_steps),
        export=total * load.student_bytes,
        host_copy=own if settings.write == "background" else 0,
    )


def _most_checkpoints(settings: CheckpointConfig, total_steps: int) -> int:
    """While the last one is written: older ones are deleted only when it is whole."""
    finished = range(settings.every_steps, total_steps, settings.every_steps)
    kept = set(finished[-settings.keep_last :])
    if settings.keep_every_steps is not None:
        kept |= {step for step in finished if step % settings.keep_every_steps == 0}
    return len(kept) + 1

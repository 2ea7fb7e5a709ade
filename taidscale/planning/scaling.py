"""The same run on more and fewer GPUs."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from taidscale.planning.duration import Duration, duration
from taidscale.planning.gpus import Gpu
from taidscale.planning.memory import memory
from taidscale.planning.workload import Workload

SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Scaled:
    """One number of GPUs."""

    load: Workload
    duration: Duration
    changed: bool
    """Whether micro-batch, batch and steps had to differ from the configured ones."""

    @property
    def tokens_per_second(self) -> float:
        """Of all GPUs."""
        return self.load.step_tokens / self.duration.step_seconds

    @property
    def days(self) -> float:
        """Of the whole run."""
        return self.load.config.total_steps * self.duration.step_seconds / 86_400

    @property
    def gpu_hours(self) -> float:
        """Of the whole run."""
        return self.days * 24 * self.load.world_size

    @property
    def needed(self) -> int:
        """Bytes that each GPU must have."""
        return memory(self.load).needed


def on_ranks(load: Workload, world_size: int) -> tuple[Workload, bool]:
    """The run on another number of ranks, with the same tokens in all.

    Where the batch has too few sequences for all ranks, they take smaller micro-batches, down to
    one sequence; then the batch grows, and the steps become fewer.
    """
    config = load.config
    batch, micro = config.global_batch_size, config.micro_batch_size
    while micro > 1 and batch % (micro * world_size):
        micro = max(size for size in range(1, micro) if micro % size == 0)
    whole = -(-batch // (micro * world_size)) * micro * world_size
    steps = max(1, round(config.total_steps * batch / whole))
    # Not validated again: schedules may be longer than the fewer steps, which costs nothing here.
    settings = {"micro_batch_size": micro, "global_batch_size": whole, "total_steps": steps}
    changed = (micro, whole) != (config.micro_batch_size, batch)
    return replace(load, config=config.model_copy(update=settings), world_size=world_size), changed


def scaling(
    load: Workload, gpu: Gpu, factor: float = 1.0, sizes: Iterable[int] = SIZES
) -> list[Scaled]:
    """One row a number of GPUs that the teacher's copies divide."""
    rows = []
    for size in sizes:
        if size % load.tp_size == 0:
            scaled, changed = on_ranks(load, size)
            rows.append(Scaled(scaled, duration(scaled, gpu, factor=factor), changed))
    return rows

"""What a training step asks of a teacher."""

from typing import Protocol

from taidscale.data.batches import MicroBatch
from taidscale.losses.signal import TeacherSignal


class TeacherSource(Protocol):
    """Where the signal of a micro-batch comes from, on all ranks of a tp_group together."""

    @property
    def num_parameters(self) -> int:
        """Of the whole teacher, that a forward uses; 0 if none runs."""

    def __call__(self, batch: MicroBatch) -> TeacherSignal:
        """The signal of all N tokens of the tp_group, from this rank's micro-batch. No gradient.

        Every rank of the group calls it with equal shapes.
        """

    def weight_hashes(self) -> dict[str, int]:
        """Hashes, by name, of what ranks with the same place in their tp_group hold alike."""

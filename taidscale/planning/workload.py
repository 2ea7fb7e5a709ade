"""A run on so many GPUs: what each rank is given to do.

Shapes: B sequences of S tokens per rank, T ranks share a copy of the teacher, N = T·B·S, V real
vocabulary entries, v those of one rank, C tokens of a chunk.
"""

from dataclasses import dataclass

from taidscale.config.schema import RunConfig
from taidscale.losses.chunking import Chunking, padded_columns, uses_kernels
from taidscale.losses.objective import Objective
from taidscale.models.shape import ModelShape

ITEM_BYTES = {"bf16": 2, "fp32": 4, "fp8": 2}
"""Of activations, and of parameters but the projections of an fp8 teacher."""


@dataclass(frozen=True)
class Workload:
    """A configuration, the shapes of its models, and the ranks."""

    config: RunConfig
    student: ModelShape
    teacher: ModelShape | None
    world_size: int
    ranks_per_node: int = 8
    cuda: bool = True
    """On a CPU some buffers are others; what is tested there is the rest."""

    @property
    def tp_size(self) -> int:
        """T."""
        return self.config.tp_size

    @property
    def num_nodes(self) -> int:
        """The last one may be part of a node."""
        return -(-self.world_size // self.ranks_per_node)

    @property
    def grad_accum_steps(self) -> int:
        """Micro-batches of a rank in an optimizer step."""
        per_micro_batch = self.config.micro_batch_size * self.world_size
        return max(1, self.config.global_batch_size // per_micro_batch)

    @property
    def own_tokens(self) -> int:
        """B·S."""
        return self.config.micro_batch_size * self.config.seq_len

    @property
    def group_tokens(self) -> int:
        """N."""
        return self.tp_size * self.own_tokens

    @property
    def step_tokens(self) -> int:
        """Of an optimizer step, over all ranks."""
        return self.config.global_batch_size * self.config.seq_len

    @property
    def student_bytes(self) -> int:
        """Of one of the student's weights or activations."""
        return ITEM_BYTES[self.config.precision]

    @property
    def teacher_bytes(self) -> int:
        """Of one of the teacher's."""
        return ITEM_BYTES[self.config.teacher.dtype] if self.config.teacher else 0

    @property
    def learns_from_teacher(self) -> bool:
        """Whether training steps call the teacher."""
        return self.config.learns_from_teacher

    @property
    def vocabulary(self) -> int:
        """V, at most: the smaller of the two heads. The tokenizer may have fewer entries."""
        sizes = [self.student.vocab_size, *([self.teacher.vocab_size] if self.teacher else [])]
        return min(sizes)

    @property
    def columns(self) -> int:
        """v of the rank with the most."""
        return self._chunking.columns

    @property
    def chunk_tokens(self) -> int:
        """C."""
        return self._chunking.chunk_size(self.group_tokens, self._bytes_per_logit)

    @property
    def logit_buffers(self) -> int:
        """Pairs of [C, v] that exist at once: the next chunk's moments travel meanwhile."""
        return 1 + self._chunking.num_ahead(self.group_tokens, self.chunk_tokens)

    @property
    def logits_bytes(self) -> int:
        """Of all [C, v] buffers."""
        padded = padded_columns(self.columns)
        return self.logit_buffers * self.chunk_tokens * padded * self._bytes_per_logit

    @property
    def gradient_by_kernel(self) -> bool:
        """Whether a kernel writes the gradient by the logits, without temporaries."""
        wanted = None if self.config.loss.kernels else False
        objective = Objective.at(self.config.loss, t=0.5, cross_entropy_weight=0.0)
        return objective.has_kernel and uses_kernels(wanted, self._device, has_triton=True)

    @property
    def _device(self) -> str:
        return "cuda" if self.cuda else "cpu"

    @property
    def _chunking(self) -> Chunking:
        loss = self.config.loss
        return Chunking(
            self.vocabulary,
            self.tp_size,
            self._device,
            loss.logits_mib * 2**20,
            loss.chunk_tokens,
        )

    @property
    def _bytes_per_logit(self) -> int:
        return self.student_bytes + (self.teacher_bytes if self.learns_from_teacher else 0)

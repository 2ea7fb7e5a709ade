"""Bytes of one rank's GPU, by part, at the moments of a step that may be its peak.

Shapes: n = B·S tokens of a rank, N = T·n of its tp_group, L layers, Ds and Dt hidden sizes, v
vocabulary entries of a rank, C tokens of a chunk.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from taidscale.losses.chunking import BLOCK_ELEMENTS
from taidscale.planning import activations, teacher, zero
from taidscale.planning.workload import Workload

PHASES = ("teacher", "student", "loss", "backward", "optimizer")
FIXED_MARGIN = 2_000_000_000
"""CUDA's context, NCCL's buffers, cuBLAS's workspaces: an assumption."""
FRAGMENTATION = 0.05
"""Of the peak, lost between the allocator's blocks: an assumption."""
_TOKEN_SUMS = 100
"""Bytes of each token's label, factor and sums, in float32 and then in float64."""
_BLOCK_COPIES = 5
"""Blocks of logits in float32 that the arithmetic without kernels holds at once."""


@dataclass(frozen=True)
class Moment:
    """What is there at one moment of a step."""

    phase: str
    parts: Mapping[str, int]
    """Bytes by part; those of 0 are left out."""

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Memory:
    """The memory that a step needs."""

    moments: tuple[Moment, ...]
    host: int
    """Bytes of host memory of one rank for an optimizer there."""

    @property
    def peak(self) -> Moment:
        """The moment with the most."""
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def needed(self) -> int:
        """Bytes that the GPU must have: the peak and the margin."""
        return round(self.peak.total * (1 + FRAGMENTATION)) + FIXED_MARGIN

    def of_phase(self, phase: str) -> Moment:
        """Its largest moment."""
        found = [moment for moment in self.moments if moment.phase == phase]
        return max(found, key=lambda moment: moment.total)


def memory(load: Workload) -> Memory:
    """All moments of the second step or a later one: the first has no moments of Adam yet."""
    state = zero.zero_state(load)
    stays = {
        "student parameters": state.parameters,
        "small parameters, whole": state.small_parameters,
        "gradients": state.gradients,
        "optimizer states": state.optimizer,
        "gradient bucket": state.bucket,
        "teacher shard": teacher.shard(load),
    }
    waiting = stays | {"gradients": state.gradients + zero.unreduced(load)}
    moments = [
        *(Moment("teacher", waiting | parts) for parts in teacher.moments(load)),
        Moment("student", waiting | teacher.hidden(load) | _forward(load)),
        *(Moment("loss", waiting | teacher.hidden(load) | parts) for parts in _loss(load)),
        *(Moment("backward", stays | parts) for parts in _backward(load)),
        Moment("optimizer", stays | {"small parameters, whole": 0, "update": zero.update(load)}),
    ]
    kept = (
        Moment(m.phase, {name: size for name, size in m.parts.items() if size}) for m in moments
    )
    return Memory(tuple(kept), state.host)


def _saved(load: Workload) -> int:
    """Activations that are kept from forward to backward."""
    model, item, seq_len = load.student, load.student_bytes, load.config.seq_len
    if load.config.student.gradient_checkpointing:
        layers = model.num_layers * activations.layer_input(model, item)
    else:
        layers = activations.saved_by_layers(model, seq_len, item)
    ends = activations.saved_by_last_norm(model, item)
    ends += activations.positions(model, seq_len, item)
    return load.own_tokens * (layers + ends)


def _layer(load: Workload) -> int:
    """What the backward of one layer needs beyond what was kept."""
    model, item, seq_len = load.student, load.student_bytes, load.config.seq_len
    work = activations.backward_work(model, seq_len, item)
    if load.config.student.gradient_checkpointing:
        work += max(
            activations.saved_per_layer(model, layer, seq_len, item) for layer, _ in model.layers
        )
        work -= activations.layer_input(model, item)
    return load.own_tokens * work


def _forward(load: Workload) -> dict[str, int]:
    model, item, seq_len = load.student, load.student_bytes, load.config.seq_len
    found, work = zero.gathered(load), 0
    if load.config.student.gradient_checkpointing:
        work = load.own_tokens * activations.forward_work(model, seq_len, item)
    return {
        "gathered layers": found.kept + found.in_trunk,
        "student activations": _saved(load) + work,
    }


def _loss(load: Workload) -> list[dict[str, int]]:
    """While the head is gathered, while chunks are computed, and while their sum is handed out."""
    model, item, found = load.student, load.student_bytes, zero.gathered(load)
    hidden = load.group_tokens * model.hidden_size
    rows = load.columns * model.hidden_size
    exchange = 4 * hidden + (item * hidden if load.tp_size > 1 else 0)
    exchange += _TOKEN_SUMS * load.group_tokens
    own = 4 * hidden // load.tp_size if load.tp_size > 1 else 0
    handed_out = own + (4 * hidden if own and not load.cuda else 0)  # gloo takes a copy
    block = "cuda" if load.cuda else "cpu"
    elements = min(BLOCK_ELEMENTS[block], load.chunk_tokens * load.columns)
    # On a CPU, products of bf16 matrices are added to float32 sums in two steps.
    product = item * rows if item < 4 and not load.cuda else 0
    saved = {"student activations": _saved(load)}
    chunks = {
        "gathered layers": found.kept,
        "exchange of hidden states": exchange,
        "logits of a chunk": load.logits_bytes
        + (0 if load.gradient_by_kernel else 4 * _BLOCK_COPIES * elements),
        "head gradient": 4 * rows + product,
    }
    summed = {
        "exchange of hidden states": exchange + handed_out,
        "logits of a chunk": load.logits_bytes,
        "head gradient": 4 * rows,
    }
    gathering = {"gathered layers": found.kept + found.in_head}
    return [saved | gathering, saved | chunks, saved | chunks | summed]


def _backward(load: Workload) -> list[dict[str, int]]:
    """At the head, in the last layer, at the first full bucket of gradients, and at the end."""
    model, item, found = load.student, load.student_bytes, zero.gathered(load)
    rows = 4 * load.columns * model.hidden_size
    head = item * model.head_parameters
    if load.columns == model.vocab_size and item == 4:
        head = 0  # in place
    saved, layer = _saved(load), _layer(load)
    own = load.own_tokens * model.hidden_size
    state = zero.zero_state(load)
    passing = {"gradient bucket": zero.passing_bucket(load) or state.bucket}
    waiting = {"gradients": state.gradients + zero.unreduced(load)}
    below = saved - load.own_tokens * activations.saved_by_last_norm(model, item)
    at_head = {
        "student activations": saved,
        "gathered layers": found.kept,
        "exchange of hidden states": own * (4 + item),
        "head gradient": head + rows,
    }
    in_layer = {"student activations": below + layer, "head gradient": head}
    in_layer |= {"gathered layers": found.kept, "exchange of hidden states": 0}
    end = {"reduction of gradients": zero.reduction(load), "head gradient": 0}
    moments = [passing | waiting | at_head, passing | waiting | in_layer, passing | end]
    trunk = model.trunk_parameters
    if load.config.zero.stage >= 2 and trunk > zero.BUCKET:
        left = round(saved * (1 - zero.BUCKET / trunk))
        full = {"student activations": left + layer, "head gradient": head}
        moments.append(passing | {"gathered layers": found.in_trunk} | end | full)
    return moments

"""How long a step and a run take, from operations and bytes.

What is assumed stands in `Efficiency`, and a measured run overrides it. Data, evaluation and
checkpoints are taken to cost nothing: they overlap with training or are rare.
"""

from dataclasses import dataclass

from taidscale.models.flops import flops_per_token, forward_flops
from taidscale.planning.communication import Traffic, traffic
from taidscale.planning.gpus import Gpu
from taidscale.planning.workload import Workload

FP32_SHARE = 1 / 15
"""Of a GPU's bf16 FLOP/s without TensorFloat-32, which torch leaves off: H100's 67 of 989."""
FLOAT8_SPEED = 2.0
"""Of products of 8 bits, by data sheets of Hopper and Ada; rounding inputs is not counted."""
PCIE = 25e9
"""Bytes/s between GPU and host memory, PCIe 4 with 16 lanes: an assumption."""


@dataclass(frozen=True)
class Efficiency:
    """Shares of the data sheet that a run reaches."""

    compute: float = 0.45
    """Of the GPU's FLOP/s while it computes: an assumption.

    Llama 3 reports an MFU of 0.38 to 0.43 on H100s, communication included (arXiv:2407.21783, table
    4).
    """
    links: float = 0.7
    """Of a link's bytes/s: an assumption."""
    memory: float = 0.7
    """Of the GPU memory's bytes/s: an assumption."""
    hop_seconds: float = 3e-6
    """Of each rank that a ring passes: an assumption."""


@dataclass(frozen=True)
class Duration:
    """Seconds of an optimizer step, by what they are spent on; one after the other."""

    teacher: float
    student: float
    """Forward, backward, and forward again with gradient checkpointing."""
    head: float
    """Heads of both models, and the loss."""
    update: float
    waiting: float
    """For communication that cannot hide."""
    hidden: float
    """Of communication behind the student's computation; not part of the step."""
    flops: float
    """Of the model, of all ranks."""
    peak: float
    """FLOP/s of all ranks."""
    factor: float = 1.0
    """Measured seconds by planned ones."""

    @property
    def step_seconds(self) -> float:
        """All of it."""
        parts = self.teacher + self.student + self.head + self.update + self.waiting
        return self.factor * parts

    @property
    def mfu(self) -> float:
        """Model operations by what the GPUs could do in that time."""
        return self.flops / (self.step_seconds * self.peak)


def duration(
    load: Workload, gpu: Gpu, efficiency: Efficiency | None = None, factor: float = 1.0
) -> Duration:
    """Of one optimizer step.

    Args:
        load: the run.
        gpu: on which it runs.
        efficiency: what is assumed.
        factor: by which a measured run took longer than was planned for it.
    """
    assumed, student, seq_len = efficiency or Efficiency(), load.student, load.config.seq_len
    teacher = load.teacher if load.learns_from_teacher else None
    tokens = load.step_tokens / load.world_size
    rate = gpu.flops * assumed.compute * (1 if load.student_bytes == 2 else FP32_SHARE)
    heads = 2.0 * student.head_parameters
    trunk = forward_flops(student, seq_len) - heads
    passes = 4 if load.config.student.gradient_checkpointing else 3
    logits = 3 * heads
    teacher_seconds = 0.0
    if teacher is not None:
        logits += 2.0 * teacher.head_parameters
        products = 2.0 * (teacher.matmul_parameters - teacher.head_parameters)
        scores = forward_flops(teacher, seq_len) - 2.0 * teacher.matmul_parameters
        teacher_seconds = tokens * (products / _speed(load, gpu) + scores) / rate
    student_seconds = tokens * passes * trunk / rate
    # Both models' logits are written, read twice and overwritten by the gradient.
    logits_bytes = 4 * tokens * load.vocabulary * (load.student_bytes + load.teacher_bytes)
    moved = traffic(load)
    seconds = {found: _seconds(found, gpu, assumed) for found in moved}
    could_hide = sum(value for found, value in seconds.items() if found.hides)
    hidden = min(could_hide, student_seconds)
    return Duration(
        teacher=teacher_seconds,
        student=student_seconds,
        head=tokens * logits / rate + logits_bytes / (gpu.memory_bandwidth * assumed.memory),
        update=_update(load, gpu, assumed),
        waiting=sum(seconds.values()) - hidden,
        hidden=hidden,
        flops=load.step_tokens * flops_per_token(student, teacher, seq_len),
        peak=gpu.flops * load.world_size,
        factor=factor,
    )


def _speed(load: Workload, gpu: Gpu) -> float:
    """Of the teacher's projections, as a multiple of bf16's."""
    if load.config.teacher is None or load.config.teacher.dtype != "fp8":
        return 1.0
    return FLOAT8_SPEED if gpu.has_float8 else FP32_SHARE  # else in float32, see `float8`


def _seconds(found: Traffic, gpu: Gpu, assumed: Efficiency) -> float:
    return found.seconds(gpu, assumed.links, assumed.hop_seconds)


def _update(load: Workload, gpu: Gpu, assumed: Efficiency) -> float:
    """Adam reads gradient, master and moments, and writes all but the gradient."""
    own = load.student.num_parameters
    if load.config.zero.stage:
        own = -(-own // load.world_size)
    if load.config.zero.offload_optimizer:
        return own * (4 + load.student_bytes) / PCIE
    return own * (28 + load.student_bytes) / (gpu.memory_bandwidth * assumed.memory)

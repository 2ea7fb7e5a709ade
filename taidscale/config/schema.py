"""Every setting of a run: its name, type, unit, default and bounds.

A configuration is frozen and never edits itself; what depends on the machines
(`grad_accum_steps`, for one) is derived where it is needed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from taidscale.config.data import DataConfig, EvaluationConfig
from taidscale.config.health import HealthConfig
from taidscale.config.loss import CrossEntropyLoss, LossConfig
from taidscale.config.profile import ProfileConfig
from taidscale.config.section import Section, check
from taidscale.home import at_home

Attention = Literal["sdpa", "eager", "flash_attention_2"]
Precision = Literal["bf16", "fp32"]
TeacherType = Literal["bf16", "fp32", "fp8"]
Load = Literal["each", "broadcast"]

# --- models ---------------------------------------------------------------------------


class TeacherConfig(Section):
    """The big model: frozen, in inference mode, split by tensor parallelism."""

    model: str
    """Folder with safetensors weights, floats of 8 bits with their scales included, or a Hub id."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    vocabulary: Literal["equal", "shared_prefix"] = "equal"
    """Whether all ids mean the same to the student, or the first; loss and data have no others."""
    tp_size: PositiveInt = 1
    """Consecutive ranks of one node that share one copy; divides the ranks of a node."""
    dtype: TeacherType = "bf16"
    """Type of weights and activations; with fp8 that of its projections, and bf16 otherwise."""
    attention: Attention = "sdpa"
    """Attention implementation of transformers; for Gemma 2 `sdpa` becomes `eager`."""
    tokens_per_forward: PositiveInt = 16384
    """Tokens that its trunk sees at once; bounds the memory of its activations."""
    load: Load = "each"
    """Whether each copy reads the files, or one, which hands its parts to the others."""


class PretrainedInit(Section):
    """Start from trained weights."""

    source: Literal["pretrained"]
    model: str
    """Folder with safetensors weights, or a Hub id."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""


class FreshInit(Section):
    """Start from random weights."""

    source: Literal["fresh"]
    config: str
    """Folder or Hub id with a `config.json`."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    overrides: Annotated[dict[str, Any], Field(default_factory=dict)]
    """Entries of `config.json` to replace, e.g. `{num_hidden_layers: 12}`.

    What the file leaves out is derived from them.
    """


class TeacherLayersInit(Section):
    """Start from the teacher with some of its layers left out."""

    source: Literal["teacher_layers"]
    layers: Annotated[list[NonNegativeInt], Field(min_length=1)]
    """Indices of the teacher's layers to keep, in their new order."""


class StudentConfig(Section):
    """The small model, which is trained."""

    init: Annotated[PretrainedInit | FreshInit | TeacherLayersInit, Field(discriminator="source")]
    """Where its weights come from."""
    tokenizer: str | None = None
    """Folder or Hub id; by default the one beside its weights, else the teacher's."""
    attention: Attention = "sdpa"
    """Attention implementation of transformers; for Gemma 2 `sdpa` becomes `eager`."""
    gradient_checkpointing: bool = False
    """Compute activations again in backward instead of storing them."""
    load: Load = "each"
    """Whether each rank reads the files of its weights, or the first, which hands them on."""


# --- optimization ---------------------------------------------------------------------


class OptimizerConfig(Section):
    """AdamW."""

    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled; not applied to norms and biases."""
    gradient_clipping: NonNegativeFloat = 1.0
    """Largest global L2 norm of the gradient; 0 turns clipping off."""


class LearningRateSection(Section):
    """What all learning-rate schedules share."""

    peak: PositiveFloat
    """Learning rate after warm-up."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear growth from 0 to the peak."""


class ConstantRate(LearningRateSection):
    """The peak until the end."""

    schedule: Literal["constant"]


class DecayRate(LearningRateSection):
    """From the peak at the end of warm-up to `final`, which would be the step after the last."""

    schedule: Literal["linear", "cosine"]
    final: NonNegativeFloat = 0.0
    """Where the decay ends."""


class WarmupStableDecay(LearningRateSection):
    """The peak until `decay_steps` before the end, then linearly to `final`."""

    schedule: Literal["wsd"]
    decay_steps: PositiveInt
    """Steps of the last phase."""
    final: NonNegativeFloat = 0.0
    """Learning rate at the end of the run."""


LearningRateConfig = Annotated[
    ConstantRate | DecayRate | WarmupStableDecay, Field(discriminator="schedule")
]


class ZeroConfig(Section):
    """How DeepSpeed shards the student."""

    stage: Literal[0, 1, 2, 3] = 3
    """0: nothing; 1: optimizer states; 2: and gradients; 3: and parameters."""
    offload_optimizer: bool = False
    """Keep optimizer states and the update on the CPU (stages 1 to 3)."""
    reduce_dtype: Precision = "fp32"
    """In which gradients are summed over ranks; bf16 halves that traffic and rounds the sum."""

    @check
    def _offload_needs_shards(self) -> Iterator[str]:
        if self.offload_optimizer and self.stage == 0:
            yield "offload_optimizer needs stage 1, 2 or 3"


# --- the rest of a run -------------------------------------------------------


class CheckpointConfig(Section):
    """What survives a crash. The same command continues the run."""

    every_steps: PositiveInt
    """Optimizer steps between checkpoints; there is always one at the end."""
    keep_last: PositiveInt = 2
    """How many of the newest stay; older ones are deleted, after a new one is verified."""
    keep_every_steps: PositiveInt | None = None
    """Steps between checkpoints that are never deleted, those after a multiple of so many."""
    write: Literal["background", "blocking"] = "background"
    """In the background a copy in host memory is written while training goes on."""


class WandbConfig(Section):
    """Weights & Biases."""

    mode: Literal["online", "offline", "disabled"] = "disabled"
    """Whether the run is sent there at once, kept to be sent later, or neither.

    `offline` writes a part per start into `run_dir/wandb`, to be sent by `wandb sync --yes` in
    `run_dir`, with wandb 0.28.2 or newer, without `--append`: else a part replaces earlier ones.
    """
    project: str = "taidscale"
    """Project there."""
    name: str | None = None
    """Name of the run there; by default the name of the run's folder."""


class TensorboardConfig(Section):
    """TensorBoard."""

    enabled: bool = False
    """Write event files into `run_dir/tensorboard`, for `tensorboard --logdir RUN_DIR`.

    It needs the package tensorboard.
    """


class RunConfig(Section):
    """One run."""

    run_dir: Annotated[Path, AfterValidator(at_home)]
    """Folder of everything that the run writes; on a file system that all nodes share."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of fresh weights, dropout and the order of the data."""
    precision: Precision = "bf16"
    """Type of the student's weights in forward and backward; masters are always fp32."""
    total_steps: PositiveInt
    """Optimizer steps of the whole run."""
    seq_len: Annotated[int, Field(ge=2)]
    """Tokens of a sequence that are predicted; shards hold one more."""
    micro_batch_size: PositiveInt
    """Sequences per rank and forward."""
    global_batch_size: PositiveInt
    """Sequences per optimizer step, over all ranks."""
    teacher: TeacherConfig | None = None
    """Needed by every objective except cross_entropy."""
    student: StudentConfig
    loss: LossConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    learning_rate: LearningRateConfig
    zero: ZeroConfig = ZeroConfig()
    data: DataConfig
    evaluation: EvaluationConfig | None = None
    checkpoint: CheckpointConfig
    health: HealthConfig = HealthConfig()
    wall_clock_hours: PositiveFloat | None = None
    """Hours after which the run saves and ends, to be started again; a bit less than a job has."""
    wandb: WandbConfig = WandbConfig()
    tensorboard: TensorboardConfig = TensorboardConfig()
    profile: ProfileConfig | None = None
    """Without it, nothing is recorded."""

    @property
    def tp_size(self) -> int:
        """T: ranks that share a copy of the teacher, and of the loss's columns."""
        return self.teacher.tp_size if self.teacher else 1

    @property
    def learns_from_teacher(self) -> bool:
        """Whether training steps call the teacher; evaluation does wherever there is one."""
        return self.teacher is not None and not isinstance(self.loss, CrossEntropyLoss)

    @check
    def _loss_has_a_teacher(self) -> Iterator[str]:
        if self.teacher is None and not isinstance(self.loss, CrossEntropyLoss):
            yield f"loss.objective {self.loss.objective} needs a teacher section"

    @check
    def _layers_have_a_teacher(self) -> Iterator[str]:
        if self.teacher is None and isinstance(self.student.init, TeacherLayersInit):
            yield "student.init.source teacher_layers needs a teacher section"

    @check
    def _bf16_has_masters(self) -> Iterator[str]:
        if self.precision == "bf16" and self.zero.stage == 0:
            yield "precision bf16 needs zero.stage 1, 2 or 3, where DeepSpeed keeps fp32 masters"

    @check
    def _phases_begin(self) -> Iterator[str]:
        for phase in self.data.phases:
            if phase.from_step >= self.total_steps:
                yield (
                    f"data.phases: the phase from step {phase.from_step} never begins; the run "
                    f"ends after total_steps ({self.total_steps})"
                )

    @check
    def _profile_ends(self) -> Iterator[str]:
        if self.profile is not None and self.profile.steps[1] > self.total_steps:
            yield (
                f"profile.steps: {list(self.profile.steps)} ends after total_steps "
                f"({self.total_steps})"
            )

    @check
    def _rate_fits_the_run(self) -> Iterator[str]:
        warmup = self.learning_rate.warmup_steps
        if warmup > self.total_steps:
            yield f"learning_rate.warmup_steps ({warmup}) exceeds total_steps ({self.total_steps})"
        if isinstance(self.learning_rate, WarmupStableDecay):
            decay = self.learning_rate.decay_steps
            if warmup + decay > self.total_steps:
                yield (
                    f"learning_rate.warmup_steps ({warmup}) and decay_steps ({decay}) together "
                    f"exceed total_steps ({self.total_steps})"
                )

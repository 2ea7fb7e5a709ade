"""Every setting of a run: its name, type, unit, default and bounds.

A configuration is frozen and never edits itself; what depends on the machines
(`grad_accum_steps`, for one) is derived where it is needed.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
Precision = Literal["bf16", "fp32"]

REFERENCE_ALPHA = 5e-4
"""Step size of the adaptive t in the published recipes (arXiv:2501.16937)."""


class Section(BaseModel):
    """A part of the configuration: unknown settings are errors, values are constants."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


# --- models ---------------------------------------------------------------------------


class TeacherConfig(Section):
    """The big model: frozen, in inference mode, split by tensor parallelism."""

    model: str
    """Folder with safetensors weights, or a Hub id."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    tp_size: PositiveInt = 1
    """Consecutive ranks of one node that share one copy; divides the ranks of a node."""
    dtype: Precision = "bf16"
    """Type of its weights and activations."""
    attention: Attention = "sdpa"
    """Attention implementation of transformers; Gemma 2 always runs `eager`."""
    tokens_per_forward: PositiveInt = 16384
    """Tokens that its trunk sees at once; bounds the memory of its activations."""


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
    overrides: dict[str, Any] = {}
    """Entries of `config.json` to replace, e.g. `{num_hidden_layers: 12}`."""


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
    """Attention implementation of transformers; Gemma 2 always runs `eager`."""
    gradient_checkpointing: bool = False
    """Compute activations again in backward instead of storing them."""


# --- loss -----------------------------------------------------------------------------


class AdaptiveT(Section):
    """TAID's rule: t follows the relative improvement of the signal."""

    schedule: Literal["adaptive"]
    t_start: Fraction = 0.4
    """t at step 0."""
    t_end: Fraction = 1.0
    """Bound of t."""
    alpha: PositiveFloat | None = None
    """Step size per update; 5e-4 where neither this nor `alpha_times_steps` is set."""
    alpha_times_steps: PositiveFloat | None = None
    """alpha · total_steps: the same curve for any length of run."""
    beta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """Momentum of the relative improvement."""
    momentum_gain: PositiveFloat = 1.0
    """Factor on the momentum inside the sigmoid; the published rule has 1."""
    signal: Literal["cross_entropy", "kl"] = "cross_entropy"
    """What improves: the reference code's soft cross entropy, or the paper's KL."""

    @model_validator(mode="after")
    def _one_alpha(self) -> Self:
        if self.alpha is not None and self.alpha_times_steps is not None:
            raise ValueError("set alpha or alpha_times_steps, not both")
        _check_order(self.t_start, self.t_end)
        return self

    def step_size(self, total_steps: int) -> float:
        """Alpha of one update in a run of `total_steps`."""
        if self.alpha_times_steps is not None:
            return self.alpha_times_steps / total_steps
        return REFERENCE_ALPHA if self.alpha is None else self.alpha


class RampT(Section):
    """t goes from `t_start` to `t_end` along a line or half a cosine."""

    schedule: Literal["linear", "cosine"]
    t_start: Fraction = 0.4
    """t at step 0."""
    t_end: Fraction = 1.0
    """t after the last step."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        _check_order(self.t_start, self.t_end)
        return self


class ExponentialT(Section):
    """t = min(t_end, 1 - (1 - t_start)·exp(-rate·step/total_steps))."""

    schedule: Literal["exponential"]
    t_start: Fraction = 0.4
    """t at step 0."""
    t_end: Fraction = 1.0
    """Bound of t."""
    rate: PositiveFloat = 5.0
    """Decays of 1 - t over the run; alpha·total_steps/2 resembles the adaptive rule."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        _check_order(self.t_start, self.t_end)
        return self


class ConstantT(Section):
    """t never moves; 1 is forward KL."""

    schedule: Literal["constant"]
    value: Fraction
    """The value of t."""


def _check_order(t_start: float, t_end: float) -> None:
    if t_start > t_end:
        raise ValueError(f"t_start ({t_start}) must not exceed t_end ({t_end})")


TSchedule = Annotated[AdaptiveT | RampT | ExponentialT | ConstantT, Field(discriminator="schedule")]


class ObjectiveSection(Section):
    """What all objectives share."""

    chunk_tokens: PositiveInt = 1024
    """Tokens whose logits exist at once. Memory only: the result does not change."""


class DistillationSection(ObjectiveSection):
    """What the objectives with a teacher share."""

    temperature: PositiveFloat = 1.0
    """Divides both models' logits in the distillation term, which is scaled by its square."""
    cross_entropy_weight: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """w in (1 - w)·distillation + w·(next-token cross entropy)."""


class TaidLoss(DistillationSection):
    """KL from the interpolated distribution to the student (arXiv:2501.16937)."""

    objective: Literal["taid"]
    t: TSchedule = AdaptiveT(schedule="adaptive")
    """How the teacher's share t of the interpolation moves; `schedule` defaults to adaptive."""

    @model_validator(mode="before")
    @classmethod
    def _adaptive_by_default(cls, settings: Any) -> Any:
        match settings:
            case {"t": dict() as t} if "schedule" not in t:
                return {**settings, "t": {"schedule": "adaptive", **t}}
        return settings


class ForwardKLLoss(DistillationSection):
    """KL from the teacher to the student."""

    objective: Literal["forward_kl"]


class CrossEntropyLoss(ObjectiveSection):
    """Next-token cross entropy alone; the teacher serves evaluation only, if there is one."""

    objective: Literal["cross_entropy"]


LossConfig = Annotated[
    TaidLoss | ForwardKLLoss | CrossEntropyLoss, Field(discriminator="objective")
]


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
    """From the peak at the end of warm-up to `final` at the last step."""

    schedule: Literal["linear", "cosine"]
    final: NonNegativeFloat = 0.0
    """Learning rate at the end of the run."""


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

    @model_validator(mode="after")
    def _offload_needs_shards(self) -> Self:
        if self.offload_optimizer and self.stage == 0:
            raise ValueError("offload_optimizer needs stage 1, 2 or 3")
        return self


# --- data and the rest of a run -------------------------------------------------------


class StreamConfig(Section):
    """One folder of MDS shards, as `tools/prepare_data.py` writes it."""

    local: str
    """Folder on this machine; the cache, where `remote` is set."""
    remote: str | None = None
    """Bucket or shared folder that the shards are fetched from."""
    proportion: PositiveFloat | None = None
    """Share of this stream in the mix; set on all streams or on none (then by size)."""


class DataConfig(Section):
    """The training tokens."""

    streams: Annotated[list[StreamConfig], Field(min_length=1)]
    """Where they come from."""
    shuffle: bool = True
    """Whether the order of samples is random."""
    num_canonical_nodes: PositiveInt = 64
    """Fixes the order of samples independently of the machines; never change it in a run."""
    num_workers: NonNegativeInt = 2
    """Loader processes per rank."""

    @model_validator(mode="after")
    def _all_proportions_or_none(self) -> Self:
        given = [stream.proportion is not None for stream in self.streams]
        if any(given) and not all(given):
            raise ValueError("set proportion on all streams or on none")
        return self


class EvaluationConfig(Section):
    """How far the student is from the teacher, on held-out tokens."""

    data: str
    """Folder of MDS shards."""
    every_steps: PositiveInt
    """Optimizer steps between evaluations; there is always one at the end."""
    at_start: bool = True
    """Evaluate before the first step too."""
    max_samples: PositiveInt | None = None
    """Use only the first samples; all by default."""


class CheckpointConfig(Section):
    """What survives a crash. The same command continues the run."""

    every_steps: PositiveInt
    """Optimizer steps between checkpoints; there is always one at the end."""
    keep_last: PositiveInt = 2
    """Older ones are deleted, after a new one is verified."""


class WandbConfig(Section):
    """Weights & Biases."""

    mode: Literal["online", "offline", "disabled"] = "disabled"
    """`offline` writes into the run's folder, to be sent with `wandb sync`."""
    project: str = "taidscale"
    """Project there."""
    name: str | None = None
    """Name of the run there; by default the name of the run's folder."""


class RunConfig(Section):
    """One run."""

    run_dir: Path
    """Folder of everything that the run writes; on a file system that all nodes share."""
    seed: NonNegativeInt = 0
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
    wandb: WandbConfig = WandbConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        problems = []
        if self.teacher is None and not isinstance(self.loss, CrossEntropyLoss):
            problems.append(f"loss.objective {self.loss.objective} needs a teacher section")
        if self.teacher is None and isinstance(self.student.init, TeacherLayersInit):
            problems.append("student.init.source teacher_layers needs a teacher section")
        warmup = self.learning_rate.warmup_steps
        if warmup > self.total_steps:
            problems.append(
                f"learning_rate.warmup_steps ({warmup}) exceeds total_steps ({self.total_steps})"
            )
        if isinstance(self.learning_rate, WarmupStableDecay):
            decay = self.learning_rate.decay_steps
            if warmup + decay > self.total_steps:
                problems.append(
                    f"learning_rate.warmup_steps ({warmup}) and decay_steps ({decay}) together "
                    f"exceed total_steps ({self.total_steps})"
                )
        if problems:
            raise ValueError("\n".join(problems))
        return self

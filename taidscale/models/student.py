"""The student: its initial weights, and the module that DeepSpeed trains."""

import copy
import functools
import math
from collections.abc import Callable
from typing import Any, assert_never

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from taidscale.config.schema import (
    FreshInit,
    PretrainedInit,
    RunConfig,
    TeacherLayersInit,
)
from taidscale.data.batches import MicroBatch
from taidscale.losses.fused_head import fused_head
from taidscale.losses.head_settings import HeadSettings
from taidscale.losses.objective import Objective
from taidscale.losses.signal import TeacherSignal
from taidscale.metrics.clock import StepClock
from taidscale.models.config_file import read_entries
from taidscale.models.families import attention_for, check_student, model_config, model_folder
from taidscale.models.load import check_weights, model_from_files
from taidscale.models.overrides import overridden
from taidscale.models.part_names import head_of, part_names, trunk_of
from taidscale.models.trunk import hidden_states
from taidscale.models.weights import WeightFiles, Weights, find_weights

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""torch's name of each `Precision`."""


def read_named(name: str, revision: str | None, setting: str) -> dict[str, Any]:
    """The entries of config.json of a model folder or Hub repository."""
    with_weights = setting != "student.init.config"  # which starts from random ones
    folder = model_folder(name, revision, setting, with_weights=with_weights)
    return read_entries(folder, setting)


def student_config(
    config: RunConfig, read: Callable[[str, str | None, str], dict[str, Any]] = read_named
) -> PretrainedConfig:
    """The student's architecture.

    Args:
        config: the run.
        read: the entries of a named model's config.json, from its name, revision and setting.

    Raises:
        ValueError: if its folder, family, layers or overrides are wrong.
    """

    def named(name: str, revision: str | None, setting: str) -> PretrainedConfig:
        found = model_config(read(name, revision, setting), setting, name)
        check_student(found, setting)
        return found

    init = config.student.init
    match init:
        case PretrainedInit():
            return named(init.model, init.revision, "student.init.model")
        case FreshInit():
            architecture = named(init.config, init.revision, "student.init.config")
            if init.overrides:
                try:
                    entries = read(init.config, init.revision, "student.init.config")
                    architecture = overridden(entries, init.overrides)
                except ValueError as error:
                    raise ValueError(f"student.init.overrides: {error}") from None
            if getattr(architecture, "qk_layernorm", False):
                raise ValueError(
                    f"student.init: transformers cannot initialise a {architecture.model_type} "
                    "with qk_layernorm: true; set it to false, or start from trained weights"
                )
            return architecture
        case TeacherLayersInit():
            teacher = config.teacher
            assert teacher is not None
            whole = named(teacher.model, teacher.revision, "teacher.model")
            return _with_layers(whole, init.layers)
        case _:
            assert_never(init)


def build_student(
    config: RunConfig, shared: Callable[[WeightFiles], Weights] = lambda files: files
) -> PreTrainedModel:
    """The student with its initial weights, in `config.precision`, on the CPU, equal on all ranks.

    Args:
        config: the run.
        shared: how ranks come to the weights of files, which each of them could read.

    Raises:
        ValueError: if its weights are missing or damaged.
    """
    architecture = student_config(config)
    dtype = DTYPES[config.precision]
    attention = attention_for(architecture, config.student.attention)
    init = config.student.init
    match init:
        case PretrainedInit():
            weights = _weights(init.model, init.revision, "student.init.model")
            check_weights(architecture, weights, "student.init.model")
            return model_from_files(architecture, shared(weights), dtype, attention)
        case FreshInit():
            return _fresh(architecture, dtype, attention, config.seed)
        case TeacherLayersInit():
            teacher = config.teacher
            assert teacher is not None
            weights = _weights(teacher.model, teacher.revision, "teacher.model")
            beginning = part_names(architecture.model_type).layers
            source_of = functools.partial(_source_of, beginning=beginning, layers=init.layers)
            return model_from_files(architecture, shared(weights), dtype, attention, source_of)
        case _:
            assert_never(init)


def trainable_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of the optimizer: matrices decay, norms and biases do not."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class StudentWithLoss(nn.Module):
    """Trunk and fused head: from token ids to the loss, in one module's forward.

    ZeRO-3 gathers a parameter around the forward and backward of the module that owns it, so
    the loss is computed inside the head.
    """

    def __init__(self, model: PreTrainedModel, settings: HeadSettings, clock: StepClock) -> None:
        super().__init__()
        self.model = model
        head = LossHead(head_of(model), settings)
        model.set_output_embeddings(head)
        self._clock = clock

    def forward(
        self,
        batch: MicroBatch,
        teacher: TeacherSignal | None,
        objective: Objective,
        with_agreement: bool = False,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of this rank's tp_group and sums over this rank's tokens; see `fused_head`.

        Args:
            batch: of B sequences of S tokens.
            teacher: of the tp_group's tokens.
            objective: what to minimise.
            with_agreement: see `fused_head`.
        """
        with self._clock.section("student"):
            hidden = hidden_states(trunk_of(self.model), batch.input_ids, batch.positions)
        with self._clock.section("loss"):
            losses: tuple[torch.Tensor, dict[str, torch.Tensor]] = head_of(self.model)(
                hidden,
                batch.labels.flatten(),
                None if batch.weights is None else batch.weights.flatten(),
                teacher,
                objective,
                with_agreement,
            )
        return losses


class LossHead(nn.Linear):
    """A language-model head whose forward is the loss; it owns the weight it took over."""

    settings: HeadSettings

    def __init__(self, head: nn.Linear, settings: HeadSettings) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = head.in_features, head.out_features
        self.weight = head.weight
        self.register_parameter("bias", None)
        self.settings = settings

    def forward(  # type: ignore[override]
        self,
        hidden: torch.Tensor,
        labels: torch.Tensor,
        token_weights: torch.Tensor | None,
        teacher: TeacherSignal | None,
        objective: Objective,
        with_agreement: bool,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See `fused_head`."""
        return fused_head(
            hidden,
            self.weight,
            labels,
            teacher,
            objective,
            self.settings,
            token_weights=token_weights,
            with_agreement=with_agreement,
        )


def _weights(name: str, revision: str | None, setting: str) -> WeightFiles:
    return find_weights(model_folder(name, revision, setting), setting)


def _with_layers(architecture: PretrainedConfig, layers: list[int]) -> PretrainedConfig:
    if max(layers) >= architecture.num_hidden_layers:
        raise ValueError(
            f"student.init.layers: {max(layers)} is not a layer of the teacher, which has "
            f"layers 0 to {architecture.num_hidden_layers - 1}"
        )
    chosen = copy.deepcopy(architecture)
    chosen.num_hidden_layers = len(layers)
    for name in ("layer_types", "no_rope_layers"):  # SmolLM3's says which layers have no RoPE
        if of_layers := getattr(architecture, name, None):
            setattr(chosen, name, [of_layers[layer] for layer in layers])
    return chosen


def _source_of(name: str, beginning: str, layers: list[int]) -> str:
    """The teacher's name of a parameter of a student that keeps some of its layers."""
    if not name.startswith(beginning):
        return name
    index, _, rest = name.removeprefix(beginning).partition(".")
    return f"{beginning}{layers[int(index)]}.{rest}"


def _fresh(
    architecture: PretrainedConfig, dtype: torch.dtype, attention: str, seed: int
) -> PreTrainedModel:
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            architecture, dtype=dtype, attn_implementation=attention
        )
    _check_fresh(model)
    return model


def _check_fresh(model: PreTrainedModel) -> None:
    """Guard against initialisers that were skipped, which train badly instead of failing."""
    std = float(model.get_input_embeddings().weight.detach().float().std())
    wanted = float(model.config.initializer_range)
    if not math.isclose(std, wanted, rel_tol=0.1):
        raise RuntimeError(f"fresh embeddings have a standard deviation of {std}, not {wanted}")

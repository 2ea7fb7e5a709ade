"""The student: its initial weights, and the module that DeepSpeed trains."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from taidscale.config.schema import (
    FreshInit,
    PretrainedInit,
    RunConfig,
    TeacherConfig,
    TeacherLayersInit,
)
from taidscale.data.batches import MicroBatch
from taidscale.losses.fused_head import fused_head
from taidscale.losses.inputs import HeadSettings, TeacherTokens
from taidscale.losses.objective import Objective
from taidscale.metrics.clock import StepClock
from taidscale.models.families import attention_for, model_folder, read_model_config, trunk_inputs
from taidscale.models.weights import find_weights

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""torch's name of each `Precision`."""


def read_named(name: str, revision: str | None, setting: str) -> PretrainedConfig:
    """The architecture of a model folder or Hub repository."""
    return read_model_config(model_folder(name, revision, setting), setting)


def student_config(
    config: RunConfig, read: Callable[[str, str | None, str], PretrainedConfig] = read_named
) -> PretrainedConfig:
    """The student's architecture.

    Args:
        config: the run.
        read: the architecture of a named model, from its name, revision and setting.

    Raises:
        ValueError: if its folder, family, layers or overrides are wrong.
    """
    init = config.student.init
    match init:
        case PretrainedInit():
            return read(init.model, init.revision, "student.init.model")
        case FreshInit():
            return _overridden(read(init.config, init.revision, "student.init.config"), init)
        case TeacherLayersInit():
            teacher = config.teacher
            assert teacher is not None
            return _with_layers(read(teacher.model, teacher.revision, "teacher.model"), init.layers)
        case _:
            assert_never(init)


def build_student(config: RunConfig) -> PreTrainedModel:
    """The student with its initial weights, in `config.precision`, on the CPU, equal on all ranks.

    Raises:
        ValueError: if its weights are missing or damaged.
    """
    architecture = student_config(config)
    dtype = DTYPES[config.precision]
    attention = attention_for(architecture, config.student.attention)
    init = config.student.init
    if isinstance(init, PretrainedInit):
        folder = model_folder(init.model, init.revision, "student.init.model")
        return _load_pretrained(folder, dtype, attention)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(config.seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            architecture, dtype=dtype, attn_implementation=attention
        )
    if isinstance(init, TeacherLayersInit):
        assert config.teacher is not None
        _copy_teacher_layers(model, config.teacher, init.layers)
    else:
        _check_fresh(model)
    return model


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
        head = LossHead(model.lm_head, settings)
        model.lm_head = head
        self.model = model
        self._clock = clock

    def forward(
        self,
        batch: MicroBatch,
        teacher: TeacherTokens | None,
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
            attention = self.model.config._attn_implementation
            output = self.model.model(**trunk_inputs(batch.input_ids, batch.positions, attention))
        with self._clock.section("loss"):
            losses: tuple[torch.Tensor, dict[str, torch.Tensor]] = self.model.lm_head(
                output.last_hidden_state.flatten(0, 1),
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
        teacher: TeacherTokens | None,
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


def _load_pretrained(folder: Path, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """Trained weights, all of them: transformers would fill a gap with random numbers."""
    find_weights(folder, "student.init.model")
    model: PreTrainedModel
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, output_loading_info=True
    )
    gaps = [*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]
    if gaps:
        raise ValueError(
            f"student.init.model: the weights in {folder} lack, or have in another shape, "
            f"{', '.join(sorted(gaps))}"
        )
    return model


def _overridden(architecture: PretrainedConfig, init: FreshInit) -> PretrainedConfig:
    entries = architecture.to_dict()
    unknown = sorted(set(init.overrides) - set(entries))
    if unknown:
        raise ValueError(
            f"student.init.overrides: {', '.join(unknown)} is not in the config.json of "
            f"{init.config}"
        )
    if "num_hidden_layers" in init.overrides:
        entries.pop("layer_types", None)  # derived from the number of layers
    return type(architecture).from_dict({**entries, **init.overrides})


def _with_layers(architecture: PretrainedConfig, layers: list[int]) -> PretrainedConfig:
    if max(layers) >= architecture.num_hidden_layers:
        raise ValueError(
            f"student.init.layers: {max(layers)} is not a layer of the teacher, which has "
            f"layers 0 to {architecture.num_hidden_layers - 1}"
        )
    chosen = copy.deepcopy(architecture)
    chosen.num_hidden_layers = len(layers)
    if getattr(chosen, "layer_types", None):
        chosen.layer_types = [architecture.layer_types[layer] for layer in layers]
    return chosen


def _copy_teacher_layers(model: PreTrainedModel, teacher: TeacherConfig, layers: list[int]) -> None:
    folder = model_folder(teacher.model, teacher.revision, "teacher.model")
    weights = find_weights(folder, "teacher.model")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            source = name
            if name.startswith("model.layers."):
                _, _, index, rest = name.split(".", 3)
                source = f"model.layers.{layers[int(index)]}.{rest}"
            parameter.copy_(weights.read(source))


def _check_fresh(model: PreTrainedModel) -> None:
    """Guard against initialisers that were skipped, which train badly instead of failing."""
    std = float(model.model.embed_tokens.weight.detach().float().std())
    wanted = float(model.config.initializer_range)
    if not math.isclose(std, wanted, rel_tol=0.1):
        raise RuntimeError(f"fresh embeddings have a standard deviation of {std}, not {wanted}")

"""The student: sharded by ZeRO, trained by DeepSpeed's engine.

Shapes: B sequences of S tokens per rank, W ranks.
"""

import contextlib
import io
import random
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch.nn.utils import get_total_norm

from taidscale.config.schema import RunConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.buffers import check_rope, kept_buffers
from taidscale.losses.inputs import HeadSettings, TeacherTokens
from taidscale.losses.objective import CROSS_ENTROPY, Objective
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.models.families import logit_softcap
from taidscale.models.student import StudentWithLoss, build_student, trainable_groups
from taidscale.parallel.grid import Grid

_PREFIX = "model."
"""What `StudentWithLoss` puts before the names of the Hugging Face model."""


class Student:
    """One student, sharded over all ranks."""

    def __init__(
        self, config: RunConfig, vocabulary: Vocabulary, grid: Grid, clock: StepClock
    ) -> None:
        """Build it on all ranks together; every rank builds it whole, then keeps its shard.

        Raises:
            ValueError: if its weights are missing or damaged.
        """
        model = build_student(config)
        self.architecture = model.config
        self.num_parameters = model.num_parameters()
        if config.student.gradient_checkpointing:
            model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        settings = HeadSettings(
            vocabulary,
            grid.tp_group,
            logits_bytes=config.loss.logits_mib * 2**20,
            chunk_tokens=config.loss.chunk_tokens,
            softcap=logit_softcap(self.architecture),
            kernels=None if config.loss.kernels else False,
        )
        module = StudentWithLoss(model, settings, clock)
        with kept_buffers(module, grid.device), contextlib.redirect_stdout(io.StringIO()):
            self._engine, *_ = deepspeed.initialize(
                model=module,
                model_parameters=trainable_groups(module, config.optimizer.weight_decay),
                config=deepspeed_config(config, grid),
            )
        check_rope(module)
        self._grid, self._clock = grid, clock
        self._stage = config.zero.stage
        self._files = _CollectingCheckpointEngine()
        assert hasattr(self._engine, "checkpoint_engine"), "the name of this attribute has changed"
        self._engine.checkpoint_engine = self._files
        assert hasattr(self._engine, "_copy_recovery_script"), "the name of this has changed"
        self._engine._copy_recovery_script = lambda _: None  # tools/export_hf.py does its work

    def __call__(
        self,
        batch: MicroBatch,
        teacher: TeacherTokens | None,
        objective: Objective,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of a micro-batch; see `losses.fused_head` for what is returned.

        Args:
            batch: this rank's, on its device.
            teacher: of the whole tp_group's tokens.
            objective: what to minimise.

        Cost: ZeRO-3 gathers each layer's parameters once in forward and once in backward, and
        reduce-scatters its gradients; besides, that of `fused_head`.
        """
        self._engine.train()
        losses: tuple[torch.Tensor, dict[str, torch.Tensor]] = self._engine(
            batch, teacher, objective
        )
        return losses

    def evaluate(self, batch: MicroBatch, teacher: TeacherTokens | None) -> dict[str, torch.Tensor]:
        """Sums over this rank's valid tokens, `top1_agreement` included; no gradient."""
        self._engine.eval()
        with torch.no_grad():
            _, sums = self._engine(batch, teacher, CROSS_ENTROPY, teacher is not None)
        return dict(sums)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of one micro-batch.

        Args:
            loss: the group's sum times W / (valid tokens of the whole optimizer step): ZeRO
                averages over the W ranks.
        """
        with self._clock.section("backward"):
            self._engine.backward(loss, scale_wrt_gas=False)
            if not self._engine.is_gradient_accumulation_boundary():
                self._engine.step()  # only counts the micro-batch

    def step(self, learning_rate: float) -> float:
        """Clip, update and forget the gradients of all micro-batches since the last step.

        Returns:
            The global L2 norm of the gradient before clipping.
        """
        with self._clock.section("optimizer"):
            for group in self._engine.optimizer.param_groups:
                group["lr"] = learning_rate
            assert self._engine.is_gradient_accumulation_boundary(), "micro-batches are missing"
            plain_norm = self._norm_without_zero() if self._stage == 0 else 0.0
            self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float(plain_norm if norm is None else norm)

    @property
    def stepped(self) -> bool:
        """Whether the last `step` changed the weights: DeepSpeed skips one whose gradient is not
        finite (not at stage 0 in float32).
        """
        return bool(self._engine.was_step_applied())

    def _norm_without_zero(self) -> float:
        """At stage 0 in float32 there is no ZeRO optimizer that would know the norm."""
        parameters = self._engine.module.parameters()
        return float(get_total_norm([p.grad for p in parameters if p.grad is not None]))

    @property
    def checkpoint_bytes(self) -> int:
        """About what `save` writes on all ranks together: fp32 masters and two moments, and at
        most 4 bytes a parameter of the model's own.
        """
        return 16 * int(self.num_parameters)

    def save(self, folder: Path) -> None:
        """Write this rank's part: its ZeRO shard and its random state. All ranks call it.

        Raises:
            OSError: if this rank could not write; the other ranks are not left waiting.
        """
        self._files.failure = None
        self._engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
        self._files.save(_random_state(), str(self._random_file(folder)))
        if self._files.failure is not None:
            raise self._files.failure

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote on as many ranks. All ranks call it.

        Raises:
            ValueError: if DeepSpeed finds nothing to load.
        """
        groups = self._engine.optimizer.param_groups
        settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        with contextlib.redirect_stdout(io.StringIO()):
            loaded, _ = self._engine.load_checkpoint(str(folder.parent), tag=folder.name)
        if loaded is None:
            raise ValueError(f"{folder} cannot be loaded by DeepSpeed")
        for group, setting in zip(self._engine.optimizer.param_groups, settings, strict=True):
            group.update(setting)  # the configuration's, not the checkpoint's
        _set_random_state(torch.load(self._random_file(folder), weights_only=False))

    def _random_file(self, folder: Path) -> Path:
        return folder / f"random_state_rank_{self._grid.rank:05d}.pt"


def deepspeed_config(config: RunConfig, grid: Grid) -> dict[str, Any]:
    """DeepSpeed's own configuration of a run."""
    optimizer = config.optimizer
    zero: dict[str, Any] = {"stage": config.zero.stage}
    if config.zero.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": grid.device.type == "cuda"}
    parameters = {
        "lr": config.learning_rate.peak,
        "betas": [optimizer.beta1, optimizer.beta2],
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
        # torch's own AdamW needs no compiler on the nodes; on a GPU its fused form is as fast
        # as DeepSpeed's.
        "torch_adam": True,
        "fused": grid.device.type == "cuda" and not config.zero.offload_optimizer,
    }
    return {
        "train_batch_size": config.global_batch_size,
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_clipping": optimizer.gradient_clipping,
        "bf16": {"enabled": config.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": config.zero.reduce_dtype,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "optimizer": {"type": "AdamW", "params": parameters},
        "steps_per_print": 10**12,
    }


def student_state_dict(folder: Path) -> dict[str, torch.Tensor]:
    """The student's parameters out of a checkpoint, by their Hugging Face names.

    Masters in float32, where ZeRO keeps them; else as they were trained. One process, no GPU;
    the whole student in memory. Tied parameters appear under both names, as one tensor.
    """
    if next(folder.glob("*optim_states.pt"), None) is None:
        states = torch.load(folder / "mp_rank_00_model_states.pt", weights_only=False)["module"]
    else:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            states = get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), folder.name)
    return {name.removeprefix(_PREFIX): tensor for name, tensor in states.items()}


class _CollectingCheckpointEngine(TorchCheckpointEngine):  # type: ignore[misc]
    """Remembers a failed write instead of leaving the other ranks in DeepSpeed's barrier."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: OSError | None = None

    def save(self, state_dict: Any, path: str) -> None:
        if "optimizer_state_dict" in state_dict:
            # In bf16 at stage 1 DeepSpeed leaves this out, and then cannot read its own file.
            state_dict["optimizer_state_dict"].setdefault("zero_stage", 1)
        try:
            torch.save(state_dict, path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as the latter
            self.failure = self.failure or OSError(f"{path}: {error}")


def _random_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])

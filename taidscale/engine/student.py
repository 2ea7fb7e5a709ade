"""The student: sharded by ZeRO, trained by DeepSpeed's engine.

Shapes: B sequences of S tokens per rank, W ranks.
"""

import contextlib
import io
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from taidscale.config.schema import RunConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.buffers import check_rope, kept_buffers
from taidscale.engine.finite import FiniteWatch, clip_or_drop, forget_skipped_gradients
from taidscale.engine.giving_checkpoint_engine import GivingCheckpointEngine
from taidscale.engine.known_classes import known_classes, read_known
from taidscale.engine.private import private, replace_private
from taidscale.engine.random_state import random_state, seed_rank, set_random_state
from taidscale.engine.universal import load_other_layout
from taidscale.health.hashes import WeightHasher
from taidscale.health.nonfinite import Sign
from taidscale.losses.head_settings import HeadSettings
from taidscale.losses.objective import CROSS_ENTROPY, Objective
from taidscale.losses.signal import TeacherSignal
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.models.families import logit_softcap
from taidscale.models.part_names import trunk_of
from taidscale.models.shared_weights import SharedWeights
from taidscale.models.student import StudentWithLoss, build_student, trainable_groups
from taidscale.models.weights import WeightFiles, Weights
from taidscale.parallel.grid import Grid
from taidscale.parallel.layout import Layout

_PREFIX = "model."
"""What `StudentWithLoss` puts before the names of the Hugging Face model."""
log = logging.getLogger(__name__)


def _shared(files: WeightFiles, config: RunConfig, grid: Grid) -> Weights:
    """The files themselves, or what the first rank reads of them."""
    return SharedWeights(files, None, grid.device) if config.student.load == "broadcast" else files


class Student:
    """One student, sharded over all ranks."""

    def __init__(
        self, config: RunConfig, vocabulary: Vocabulary, grid: Grid, clock: StepClock
    ) -> None:
        """Build it on all ranks together; every rank builds it whole, then keeps its shard.

        Raises:
            ValueError: if its weights are missing or damaged.
        """
        started = time.perf_counter()
        model = build_student(config, lambda files: _shared(files, config, grid))
        log.info("student: built in %.1f s", time.perf_counter() - started)
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
        groups = trainable_groups(module, config.optimizer.weight_decay)
        names = {parameter: name for name, parameter in module.named_parameters()}
        self._shapes = {names[p]: p.shape for group in groups for p in group["params"]}
        with kept_buffers(module, grid.device), contextlib.redirect_stdout(io.StringIO()):
            self._engine, *_ = deepspeed.initialize(
                model=module,
                model_parameters=groups,
                config=deepspeed_config(config, grid),
            )
        check_rope(module)
        self._watch = FiniteWatch(model, trunk_of(model).layers)
        self._grid, self._clock = grid, clock
        zero = config.zero
        self.layout = Layout(grid.world_size, zero.stage, zero.offload_optimizer, config.precision)
        self._seed, self._clipping = config.seed, config.optimizer.gradient_clipping
        self._files = GivingCheckpointEngine()
        replace_private(self._engine, "checkpoint_engine", self._files)
        # `taidscale export` does the work of DeepSpeed's script.
        replace_private(self._engine, "_copy_recovery_script", lambda _: None)

    def __call__(
        self,
        batch: MicroBatch,
        teacher: TeacherSignal | None,
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
        self._watch.start_micro_batch()
        if teacher is not None:
            own = batch.input_ids.numel()
            first = self._grid.tp_rank * own
            self._watch.see("teacher", "", teacher.evidence(slice(first, first + own)))
        losses: tuple[torch.Tensor, dict[str, torch.Tensor]] = self._engine(
            batch, teacher, objective
        )
        self._watch.see("loss", "", losses[1]["loss"])
        return losses

    def evaluate(self, batch: MicroBatch, teacher: TeacherSignal | None) -> dict[str, torch.Tensor]:
        """Sums over this rank's valid tokens, `top1_agreement` included; no gradient."""
        self._engine.eval()
        with torch.no_grad():
            _, sums = self._engine(batch, teacher, CROSS_ENTROPY, teacher is not None)
        return dict(sums)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of one micro-batch; one of NaN if the loss is not finite.

        Args:
            loss: the group's sum times W / (valid tokens of the whole optimizer step): ZeRO
                averages over the W ranks.
        """
        with self._clock.section("backward"):
            one = loss.detach() * 0 + 1  # or NaN; so `step` need not wait for the loss
            self._engine.backward(loss * one, scale_wrt_gas=False)
            if not self._engine.is_gradient_accumulation_boundary():
                self._engine.step()  # only counts the micro-batch

    def step(self, learning_rate: float) -> float:
        """Clip, update and forget the gradients of all micro-batches since the last step.

        If they are not finite, weights, moments and step counts stay as they are.

        Returns:
            The global L2 norm of the gradient before clipping.
        """
        with self._clock.section("optimizer"):
            for group in self._engine.optimizer.param_groups:
                group["lr"] = learning_rate
            if not self._engine.is_gradient_accumulation_boundary():
                raise RuntimeError("micro-batches of this step are missing")
            self._watch.end_step()
            norm = None
            if self.layout.stage == 0:
                norm = clip_or_drop(self._engine.module, self._clipping)
            self._engine.step()
        norm = float(self._engine.get_global_grad_norm() if norm is None else norm)
        if not math.isfinite(norm):
            forget_skipped_gradients(self._engine.optimizer)
        return norm

    def signs(self) -> list[Sign]:
        """Where this rank first saw, in each micro-batch of the last step, what was not finite."""
        return self._watch.first_signs()

    def weight_hashes(self) -> dict[str, int]:
        """Hashes, by name, of what every rank holds whole.

        That is all of it up to stage 2, and with stage 3 those small parameters that DeepSpeed does
        not partition.
        """
        model = self._engine.module.model
        named = model.named_parameters()
        whole = [(n, p) for n, p in named if self.layout.stage < 3 or private(p, "ds_persist")]
        return WeightHasher(self._grid.device).hashes([*whole, *model.named_buffers()])

    @property
    def checkpoint_bytes(self) -> int:
        """About what `save` writes on all ranks together.

        fp32 masters and two moments, and at most 4 bytes a parameter of the model's own.
        """
        return 16 * int(self.num_parameters)

    def save(self, folder: Path, put: Callable[[Any, Path], None]) -> None:
        """Hand out this rank's part: its ZeRO shard and its random state. All ranks call it.

        Args:
            folder: exists.
            put: as `torch.save`; called for each file, with what changes at the next step.

        Raises:
            OSError: if `put` did; the other ranks are not left waiting.
        """
        with self._files.given_to(put):
            self._engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
            self._files.save(random_state(), str(self._random_file(folder)))

    def load(self, folder: Path, written: Layout, step: int) -> None:
        """Continue from what `save` wrote, in whatever layout. All ranks call it.

        The same layout continues to the bit. With another number of ranks, their random
        numbers are new ones, which the seed, the step and the rank determine.

        Args:
            folder: the checkpoint.
            written: `layout` of the student that wrote it.
            step: at which it was written.

        Raises:
            ValueError: if DeepSpeed finds nothing to load, or more than a checkpoint holds.
            AgreedError: if another layout cannot be converted.

        Cost: nothing, but what `load_other_layout` does for another layout.
        """
        groups = self._engine.optimizer.param_groups
        settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        if written == self.layout:
            with known_classes(), contextlib.redirect_stdout(io.StringIO()):
                loaded, _ = self._engine.load_checkpoint(str(folder.parent), tag=folder.name)
            if loaded is None:
                raise ValueError(f"{folder} cannot be loaded by DeepSpeed")
        else:
            engine, now = self._engine, self.layout
            load_other_layout(engine, self._shapes, folder, written, now, self._grid)
        for group, setting in zip(self._engine.optimizer.param_groups, settings, strict=True):
            group.update(setting)  # the configuration's, not the checkpoint's
        if self.layout.stage:  # else `step` clips
            replace_private(self._engine.optimizer, "clip_grad", self._clipping)
        if written.world_size == self.layout.world_size:
            set_random_state(read_known(self._random_file(folder)))
        else:
            seed_rank(self._seed, step, self._grid.rank)

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
        # Stage 0 clips in `Student.step`: DeepSpeed fails where a step has no gradients.
        "gradient_clipping": optimizer.gradient_clipping if config.zero.stage else 0.0,
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

    Raises:
        ValueError: if a file holds more than a checkpoint does.
    """
    if next(folder.glob("*optim_states.pt"), None) is None:
        states = read_known(folder / "mp_rank_00_model_states.pt")["module"]
    else:
        quiet = io.StringIO()
        with (
            known_classes(),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
        ):
            states = get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), folder.name)
    return {name.removeprefix(_PREFIX): tensor for name, tensor in states.items()}

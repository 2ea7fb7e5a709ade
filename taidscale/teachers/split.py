"""A frozen teacher, in inference mode, split over the tp_group by tensor parallelism.

Shapes: B sequences of S tokens per rank, N = T·B·S tokens of the tp_group, Dt the teacher's
hidden size, V the real vocabulary, v this rank's entries of it.
"""

import logging
import resource
import time
from pathlib import Path

import torch
from transformers import PretrainedConfig

from taidscale.config.schema import TeacherConfig
from taidscale.data.batches import MicroBatch
from taidscale.health.hashes import WeightHasher
from taidscale.losses.signal import HeadSignal
from taidscale.losses.vocabulary import Vocabulary
from taidscale.models.families import logit_scale, logit_softcap
from taidscale.models.part_names import part_names
from taidscale.models.shared_weights import SharedWeights
from taidscale.models.trunk import hidden_states
from taidscale.models.weights import Weights, find_weights
from taidscale.parallel.collectives import all_gather_rows
from taidscale.parallel.grid import Grid
from taidscale.teachers.shares import length
from taidscale.teachers.trunk import compute_type, share_of, split_trunk

log = logging.getLogger(__name__)


class SplitTeacher:
    """Hidden states of the tp_group's tokens, and this rank's rows of the head.

    Weights are read slice by slice: no rank ever holds more than its
    share and one tensor.
    """

    def __init__(
        self,
        config: TeacherConfig,
        architecture: PretrainedConfig,
        folder: Path,
        vocabulary: Vocabulary,
        grid: Grid,
    ) -> None:
        """Build it on all ranks together.

        Raises:
            ValueError: if weights are missing or damaged.

        Cost: every rank reads its slices of the weights; two gathered numbers per rank.
        """
        started = time.perf_counter()
        files = find_weights(folder, "teacher.model")
        weights: Weights = files
        if config.load == "broadcast" and grid.data.size > 1:
            weights = SharedWeights(files, grid.group_across(), grid.device)
        dtype = compute_type(config.dtype)
        trunk = split_trunk(architecture, weights, config.dtype, config.attention, grid)
        self._model, self.num_parameters = trunk.model, trunk.num_parameters
        names = part_names(architecture.model_type)
        if architecture.tie_word_embeddings:
            self._head_rows = self._model.get_input_embeddings().weight[vocabulary.rows]
        else:
            self.num_parameters += architecture.vocab_size * architecture.hidden_size
            rows = weights.read(names.head_weight, vocabulary.rows)
            self._head_rows = rows.to(grid.device, dtype, copy=True)
        self._head_bias = None
        if (bias := f"{names.head}.bias") in weights:
            self._head_bias = weights.read(bias, vocabulary.rows).to(grid.device, dtype, copy=True)
        self._trunk = trunk
        self._softcap, self._scale = logit_softcap(architecture), logit_scale(architecture)
        self._tokens_per_forward = config.tokens_per_forward
        self._group = grid.tp_group
        weights.close()
        self._report(grid, files.num_bytes_read, time.perf_counter() - started)

    def __call__(self, batch: MicroBatch) -> HeadSignal:
        """Hidden states [N, Dt] of all sequences of the tp_group, from this rank's B of them.

        Every rank of the group calls it with equal shapes. No gradient.

        Cost: one all-gather of [T·B, S] ids, and of as many positions where attention stays
        within documents; per layer two all-reduces of the hidden states within the tp_group (and
        two of a number per token where norms are over all heads), in slices of
        `tokens_per_forward` tokens.
        """
        own = [batch.input_ids] if batch.positions is None else [batch.input_ids, batch.positions]
        with torch.inference_mode():
            rows = all_gather_rows(torch.stack(own, dim=1), self._group)  # [T·B, 1 or 2, S]
            slices = rows.split(max(1, self._tokens_per_forward // rows.shape[-1]))  # type: ignore[no-untyped-call]
            hidden = torch.cat([hidden_states(self._model, *part.unbind(1)) for part in slices])
        return HeadSignal(hidden, self._head_rows, self._softcap, self._scale, self._head_bias)

    def weight_hashes(self) -> dict[str, int]:
        """Hashes of this rank's share; they never change, and are those of its other copies."""
        named = [*self._trunk.named_parameters(), *self._trunk.named_buffers()]
        hasher = WeightHasher(self._head_rows.device)
        return hasher.hashes([*named, ("head rows", self._head_rows)])

    def buffers(self) -> dict[str, torch.Tensor]:
        """Of its trunk, by name: RoPE frequencies."""
        return dict(self._trunk.named_buffers())

    def _report(self, grid: Grid, num_bytes: int, seconds: float) -> None:
        """Say what was read, what each rank holds, and the most that it held so far.

        Cost: one all-gather of four numbers per rank.
        """
        tensors = [*self._trunk.parameters(), self._head_rows]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        own = (sum(storages.values()) / 2**30, peak, num_bytes / 2**30, seconds)
        held, peaks, read, took = zip(*grid.gather(own), strict=True)
        log.info("teacher: %.2f GiB read by all ranks, in %.1f s", sum(read), max(took))
        log.info(
            "teacher: %.2f to %.2f GiB of weights on each rank; peak resident memory of the "
            "ranks so far %.2f to %.2f GiB",
            *(min(held), max(held), min(peaks), max(peaks)),
        )


def warn_of_uneven_heads(architecture: PretrainedConfig, tp_size: int) -> None:
    """Say what it costs where heads do not divide over the ranks.

    They are split all the same, by whole heads: some ranks get one more than others, and with more
    ranks than key-value heads some may get none.
    """
    shares = [share_of(architecture, rank, tp_size) for rank in range(tp_size)]
    heads = architecture.num_attention_heads
    slowdown = max(length(share.queries) for share in shares) * tp_size / heads
    if slowdown > 1:
        log.warning(
            "teacher.tp_size: %d heads on %d key-value heads do not divide over %d ranks; the "
            "ranks with most make its attention %.2f times as slow and large as an even split",
            *(heads, shares[0].num_kv_heads, tp_size, slowdown),
        )

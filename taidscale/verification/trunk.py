"""Does the tensor-parallel teacher give what its first layers give whole, in float32?

Shapes: S tokens of a sequence, N = T·S tokens of the tp_group, Dt the teacher's hidden size.
"""

import copy
import socket
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from taidscale.config.schema import TeacherConfig
from taidscale.data.batches import MicroBatch
from taidscale.losses.vocabulary import Vocabulary
from taidscale.models.part_names import part_names
from taidscale.models.trunk import hidden_states
from taidscale.models.weights import find_weights
from taidscale.parallel.grid import Grid
from taidscale.teachers.split import SplitTeacher
from taidscale.teachers.trunk import whole_trunk
from taidscale.verification.finding import Finding, relative_error, where

NUM_LAYERS = 2
MAX_TOKENS = 4096
"""Of a sequence: rounded RoPE frequencies turn late positions by wrong angles, not early ones."""
LEAST_BOUND = 1e-4
"""Relative error that order and kind of float32 sums may cause."""
MOST_ROUNDING = 2.0
"""Factor of the error that the teacher's type alone causes: that of the same layers whole."""
ROPE_BOUND = 1e-6
_LOGIT_TOKENS = 64


def check_trunk(
    config: TeacherConfig,
    architecture: PretrainedConfig,
    folder: Path,
    vocab_size: int,
    seq_len: int,
    grid: Grid,
) -> list[Finding]:
    """Compare hidden states at the end of sequences, and logits. All ranks call it.

    Args:
        config: of the run.
        architecture: of its whole teacher.
        folder: of its weights.
        vocab_size: of the tokenizer.
        seq_len: of the run.
        grid: all ranks.

    Raises:
        ValueError: if weights are missing or damaged.

    Cost: every rank reads its slices of some layers, the first of each tp_group those layers whole.
    Memory: the embedding and the layers on the first rank of each tp_group, in float32 and then in
    the teacher's type.
    """
    few = copy.deepcopy(architecture)
    first_sparse = getattr(few, "first_k_dense_replace", 0)
    few.num_hidden_layers = min(max(NUM_LAYERS, first_sparse + 1), architecture.num_hidden_layers)
    if getattr(few, "layer_types", None):
        few.layer_types = few.layer_types[: few.num_hidden_layers]
    vocabulary = Vocabulary.split(vocab_size, grid.tp_rank, grid.tp_size)
    length = min(seq_len, architecture.max_position_embeddings, MAX_TOKENS)
    generator = torch.Generator().manual_seed(grid.rank)
    ids = torch.randint(vocab_size, (1, length), generator=generator).to(grid.device)
    teacher = SplitTeacher(config, few, folder, vocabulary, grid)
    found = teacher(MicroBatch(ids, ids))
    group_ids = torch.cat(grid.of_group(grid.gather(ids.cpu())))
    own, rope = (0.0, 0.0, 0.0, 0.0), 0.0
    if grid.tp_rank == 0:
        group_ids = group_ids.to(grid.device)
        trunk = whole_trunk(few, folder, "fp32", grid.device)
        right = _last_tokens(_hidden(trunk, group_ids), length)
        rope = _rope_error(teacher.buffers(), dict(trunk.named_buffers()))
        del trunk
        rounded = right
        if config.dtype != "fp32":
            trunk = whole_trunk(few, folder, config.dtype, grid.device)
            rounded = _last_tokens(_hidden(trunk, group_ids), length)
        hidden = _last_tokens(found.hidden, length)
        head = _read_head(few, folder, vocabulary).to(grid.device)
        own = (
            relative_error(hidden, right),
            relative_error(hidden[-_LOGIT_TOKENS:] @ found.head_rows.t(), _logits(right, head)),
            relative_error(rounded, right),
            relative_error(_logits(rounded, head.to(rounded.dtype)), _logits(right, head)),
        )
    return _findings(config, few, length, grid, own, rope)


def _findings(
    config: TeacherConfig,
    few: PretrainedConfig,
    length: int,
    grid: Grid,
    own: tuple[float, ...],
    rope: float,
) -> list[Finding]:
    hosts = grid.gather(socket.gethostname())
    errors = grid.gather_floats(*own)
    ropes = [error for (error,) in grid.gather_floats(rope)]
    wrong_angles = None
    if max(ropes) > ROPE_BOUND:
        wrong_angles = (
            "something casts its RoPE frequencies (inv_freq) from float32: late positions are "
            f"turned by wrong angles, {where(ropes, ROPE_BOUND, hosts)}"
        )
    measured, allowed = f"{max(ropes):.1e}", f"{ROPE_BOUND:.1e}"
    findings = [Finding("teacher's RoPE frequencies", measured, allowed, wrong_angles)]
    for place, name in enumerate(("hidden states", "logits")):
        of_ranks = [found[place] for found in errors]
        bound = max(LEAST_BOUND, MOST_ROUNDING * max(found[2 + place] for found in errors))
        culprit = None
        if not max(of_ranks) <= bound:
            said = (
                "see its RoPE frequencies"
                if wrong_angles
                else f"its layers are split over T = {grid.tp_size} wrongly, or all-reduces of the "
                "tp_group change what they carry"
                if grid.tp_size > 1
                else "its layers compute something else than transformers' own in float32"
            )
            culprit = f"{said}, {where(of_ranks, bound, hosts)}"
        label = f"teacher's {name}, {few.num_hidden_layers} layers, {length:,} tokens, "
        label += f"T {grid.tp_size}, {config.dtype}"
        findings.append(Finding(label, f"{max(of_ranks):.1e}", f"{bound:.1e}", culprit))
    return findings


def _hidden(trunk: Any, ids: torch.Tensor) -> torch.Tensor:
    """[N, Dt] of all sequences, one at a time."""
    with torch.inference_mode():
        return torch.cat([hidden_states(trunk.model, row[None]) for row in ids])


def _last_tokens(hidden: torch.Tensor, length: int) -> torch.Tensor:
    """The last quarter of each sequence, where wrong angles of positions are largest."""
    return hidden.view(-1, length, hidden.shape[-1])[:, -max(1, length // 4) :].flatten(0, 1)


def _read_head(few: PretrainedConfig, folder: Path, vocabulary: Vocabulary) -> torch.Tensor:
    """This rank's rows, in float32."""
    names = part_names(few.model_type)
    name = names.embedding_weight if few.tie_word_embeddings else names.head_weight
    return find_weights(folder, "teacher.model").read(name, vocabulary.rows).float()


def _logits(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Of the last tokens, in this rank's columns."""
    return hidden[-_LOGIT_TOKENS:] @ head.t()


def _rope_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest relative error of a frequency: some models hide it at the lengths that are tried."""
    errors = [
        float(((found[name].double() - right.double()) / right.double()).abs().max())
        for name, right in expected.items()
        if name.endswith("inv_freq")
    ]
    return max(errors, default=0.0)

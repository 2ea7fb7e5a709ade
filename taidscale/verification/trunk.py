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
from taidscale.engine.teacher import Teacher, whole_trunk
from taidscale.losses.inputs import TeacherTokens
from taidscale.losses.vocabulary import Vocabulary
from taidscale.models.families import trunk_inputs
from taidscale.models.weights import find_weights
from taidscale.parallel.grid import Grid
from taidscale.verification.finding import Finding, relative_error, where

NUM_LAYERS = 2
MAX_TOKENS = 4096
"""Of a sequence: rounded RoPE frequencies turn late positions by wrong angles, not early ones."""
BOUNDS = {"fp32": 1e-4, "bf16": 4e-2}
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
    Memory: the embedding and the layers in float32 on the first rank of each tp_group.
    """
    few = copy.deepcopy(architecture)
    few.num_hidden_layers = min(NUM_LAYERS, architecture.num_hidden_layers)
    if getattr(few, "layer_types", None):
        few.layer_types = few.layer_types[: few.num_hidden_layers]
    vocabulary = Vocabulary.split(vocab_size, grid.tp_rank, grid.tp_size)
    length = min(seq_len, architecture.max_position_embeddings, MAX_TOKENS)
    generator = torch.Generator().manual_seed(grid.rank)
    ids = torch.randint(vocab_size, (1, length), generator=generator).to(grid.device)
    teacher = Teacher(config, few, folder, vocabulary, grid)
    found = teacher(MicroBatch(ids, ids))
    group_ids = torch.cat(grid.gather(ids.cpu()))[grid.rank - grid.tp_rank :][: grid.tp_size]
    hidden_error, logit_error, rope = 0.0, 0.0, None
    if grid.tp_rank == 0:
        trunk = whole_trunk(few, folder, grid.device)
        expected = _hidden(trunk, group_ids.to(grid.device))
        last = torch.arange(len(expected), device=grid.device).view(len(group_ids), -1)
        last = last[:, -max(1, length // 4) :].flatten()
        hidden_error = relative_error(found.hidden[last], expected[last])
        logit_error = _logit_error(found, expected, few, folder, vocabulary)
        rope = _rope_difference(teacher.buffers(), dict(trunk.named_buffers()))
    return _findings(config, few, length, grid, (hidden_error, logit_error), rope)


def _findings(
    config: TeacherConfig,
    few: PretrainedConfig,
    length: int,
    grid: Grid,
    own: tuple[float, float],
    rope: str | None,
) -> list[Finding]:
    bound, hosts = BOUNDS[config.dtype], grid.gather(socket.gethostname())
    errors, ropes = grid.gather_floats(*own), grid.gather(rope)
    findings = []
    for place, name in enumerate(("hidden states", "logits")):
        of_ranks = [found[place] for found in errors]
        culprit = None
        if not max(of_ranks) <= bound:
            said = next((found for found in ropes if found), None) or (
                f"its layers are split over T = {grid.tp_size} wrongly, or all-reduces of the "
                "tp_group change what they carry"
                if grid.tp_size > 1
                else "its layers compute something else than transformers' own in float32"
            )
            culprit = f"{said}, {where(of_ranks, bound, hosts)}"
        label = f"teacher's {name}, {few.num_hidden_layers} layers, {length:,} tokens, "
        label += f"T {grid.tp_size}, {config.dtype}"
        findings.append(Finding(label, f"{max(of_ranks):.1e}", f"{bound:.0e}", culprit))
    return findings


def _hidden(trunk: Any, ids: torch.Tensor) -> torch.Tensor:
    """[N, Dt] of all sequences, one at a time."""
    with torch.inference_mode():
        outputs = [
            trunk(**trunk_inputs(row[None], None, trunk.config._attn_implementation)) for row in ids
        ]
        return torch.cat([output.last_hidden_state.flatten(0, 1) for output in outputs])


def _logit_error(
    found: TeacherTokens,
    expected: torch.Tensor,
    few: PretrainedConfig,
    folder: Path,
    vocabulary: Vocabulary,
) -> float:
    """Of this rank's columns, for the last tokens of the last sequence."""
    weights = find_weights(folder, "teacher.model")
    tied = few.tie_word_embeddings
    name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    head = weights.read(name, vocabulary.rows).to(expected.device, torch.float32)
    last = slice(-_LOGIT_TOKENS, None)
    return relative_error(found.hidden[last] @ found.head_rows.t(), expected[last] @ head.t())


def _rope_difference(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> str | None:
    """How the frequencies of rotary embeddings differ, the usual reason at late positions."""
    for name, right in expected.items():
        own = found.get(name)
        if not name.endswith("inv_freq") or own is None or torch.equal(own, right):
            continue
        kind = str(own.dtype).removeprefix("torch.")
        error = float(((own.double() - right.double()) / right.double()).abs().max())
        return (
            f"its RoPE frequencies ({name}, {kind}) are off by {error:.1e}: something cast them "
            "from float32, and late positions are turned by wrong angles"
        )
    return None

"""How far is the student from the teacher, on tokens that neither was trained on here."""

import torch

from taidscale.config.schema import RunConfig
from taidscale.data.held_out import HeldOutLoader
from taidscale.engine.student import Student
from taidscale.labels import IGNORED
from taidscale.metrics.sums import LossSums
from taidscale.models.vocabulary import VocabularyContract
from taidscale.parallel.grid import Grid
from taidscale.teachers.source import TeacherSource

FIGURES = (
    "teacher_kl",
    "next_token_loss",
    "teacher_next_token_loss",
    "student_entropy",
    "teacher_entropy",
    "top1_agreement",
)
"""What an evaluation returns; those of the teacher only where there is one."""


def open_held_out(
    config: RunConfig, vocabulary: VocabularyContract, grid: Grid
) -> dict[str, HeldOutLoader]:
    """The held-out samples by name of their set, each on exactly one rank; empty if there are none.

    Raises:
        ValueError: if a folder has no shards, or other sequences.
    """
    if config.evaluation is None:
        return {}
    return {
        name: HeldOutLoader(
            folder,
            seq_len=config.seq_len,
            batch_size=config.micro_batch_size,
            rank=grid.rank,
            world_size=grid.world_size,
            vocab_size=vocabulary.size,
            left_out=vocabulary.left_out,
            within_document=config.data.attention == "within_document",
            max_samples=config.evaluation.max_samples,
        )
        for name, folder in config.evaluation.folders.items()
    }


def evaluate(
    student: Student, teacher: TeacherSource | None, held_out: HeldOutLoader, grid: Grid
) -> dict[str, float]:
    """Means over all held-out tokens, in nats per token, and the share of equal top tokens.

    Vocabulary-parallel like the training loss; independent of the number of ranks. All ranks
    call it. Neither t nor any random state moves.

    Cost: per batch one forward of both models and that of `fused_head`.
    """
    sums = LossSums()
    num_valid = torch.zeros((), dtype=torch.int64)
    for batch in held_out:
        num_valid += (batch.labels != IGNORED).sum()
        batch = batch.to(grid.device)
        signal = teacher(batch) if teacher is not None else None
        sums.add(student.evaluate(batch, signal))
    total = int(grid.sum_over_world(num_valid))
    means = sums.mean_over_world(grid, total)
    return {name: means[name] for name in FIGURES if name in means} | {"num_tokens": total}

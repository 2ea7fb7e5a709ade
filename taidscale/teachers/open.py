"""From the settings of a run to its teacher."""

from pathlib import Path

from transformers import PretrainedConfig

from taidscale.config.schema import RunConfig
from taidscale.losses.vocabulary import Vocabulary
from taidscale.parallel.grid import Grid
from taidscale.teachers.source import TeacherSource
from taidscale.teachers.split import SplitTeacher


def open_teacher(
    config: RunConfig,
    architecture: PretrainedConfig | None,
    folder: Path | None,
    vocabulary: Vocabulary,
    grid: Grid,
) -> TeacherSource | None:
    """The teacher, where the run has one: for the loss, for evaluation or for both.

    All ranks call it together.

    Args:
        config: of the run.
        architecture: of its teacher.
        folder: of the teacher's weights.
        vocabulary: this rank's share.
        grid: all ranks.

    Raises:
        ValueError: if weights are missing or damaged.
    """
    if config.teacher is None or architecture is None or folder is None:
        return None
    return SplitTeacher(config.teacher, architecture, folder, vocabulary, grid)

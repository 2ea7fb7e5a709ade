"""May this start begin? All that can be known of it before weights are loaded."""

from dataclasses import dataclass

from taidscale.config.schema import RunConfig
from taidscale.data.loader import TrainingLoader
from taidscale.file_names import CHECKPOINTS_FOLDER
from taidscale.models.sources import Record, at_commits, hub_commits, record_sources
from taidscale.parallel.agreement import on_first, together
from taidscale.parallel.grid import Grid
from taidscale.run.continuation import check_continuation
from taidscale.run.folder import check_models, read_models
from taidscale.run.preflight import Prepared, prepare


@dataclass(frozen=True)
class Checked:
    """A run that may start: what was found out before its weights are loaded."""

    config: RunConfig
    prepared: Prepared
    models: Record
    """What they are made of; of the first rank."""
    loader: TrainingLoader


def check(config: RunConfig, grid: Grid) -> Checked:
    """All that can be known of a start before weights are loaded; nothing is written.

    Raises:
        AgreedError: if it must not go on.
    """
    given, run_dir = config, config.run_dir
    commits = on_first(grid, lambda: hub_commits(given, read_models(run_dir)))
    config = at_commits(given, commits)
    prepared = together(grid, lambda: prepare(config))
    loader = together(grid, lambda: open_training_data(config, prepared, grid))

    def compare() -> Record:
        check_continuation(config, run_dir / CHECKPOINTS_FOLDER, loader)
        models = record_sources(given, config)
        check_models(run_dir, models)
        return models

    return Checked(config, prepared, on_first(grid, compare), loader)


def open_training_data(config: RunConfig, prepared: Prepared, grid: Grid) -> TrainingLoader:
    """The training samples, at their first."""
    per_micro_batch = config.micro_batch_size * grid.world_size
    return TrainingLoader(
        config.data,
        seq_len=config.seq_len,
        micro_batch_size=config.micro_batch_size,
        grad_accum_steps=config.global_batch_size // per_micro_batch,
        seed=config.seed,
        vocab_size=prepared.vocabulary.size,
        left_out=prepared.vocabulary.left_out,
    )

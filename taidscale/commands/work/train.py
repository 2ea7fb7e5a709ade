"""What `taidscale train` does on each rank: check, train, and leave word of how it ended."""

import contextlib
import logging
import os
import sys

from taidscale.commands.outcome import START_AGAIN, USER_ERROR, end_at_once, fail
from taidscale.config.load import check_world
from taidscale.config.schema import RunConfig
from taidscale.engine.runtime import adopt_launcher, end_ranks, start_ranks
from taidscale.file_names import STOP_FILE
from taidscale.health.stop import StopRequest, WaitingEnded
from taidscale.parallel.agreement import on_first, together
from taidscale.parallel.grid import AgreedError, Grid
from taidscale.run.folder import lock_run_folder
from taidscale.run.start_checks import check
from taidscale.run.status import leave_word, newest_step, status_at_start
from taidscale.run.watch import RunWatch
from taidscale.train import train

log = logging.getLogger(__name__)


def start(config: RunConfig) -> int:
    """Join the other ranks and run; the exit status."""
    try:
        world_size, local_world_size = adopt_launcher()
    except ValueError as error:  # alike on all ranks of a node
        return fail(str(error)) if os.environ.get("LOCAL_RANK", "0") == "0" else USER_ERROR
    try:
        check_world(config, world_size, local_world_size)
        grid = start_ranks(config.tp_size, config.seed)
    except ValueError as error:  # alike on all ranks
        return fail(str(error)) if os.environ["RANK"] == "0" else USER_ERROR
    stop = StopRequest(config.wall_clock_hours)
    with stop, contextlib.ExitStack() as kept:
        status = run(config, grid, stop, kept)
    end_ranks()
    return status


def run(config: RunConfig, grid: Grid, stop: StopRequest, kept: contextlib.ExitStack) -> int:
    """Check, train, and leave word of how it ended; the exit status.

    Args:
        config: the run.
        grid: all ranks.
        stop: whether this one is asked to end.
        kept: holds the lock on the run's folder.
    """
    run_dir, first = config.run_dir, grid.is_first
    status = None
    try:
        together(grid, lambda: kept.enter_context(lock_run_folder(run_dir)) if first else None)
        together(grid, lambda: stop.obey(run_dir / STOP_FILE) if first else None)
        status = status_at_start(run_dir, newest_step(run_dir))
        log.info("looking at models and data")
        start = check(config, grid)
        on_first(grid, lambda: status.write(run_dir))
        log.info("loading the models")
        with RunWatch(start.config, grid) as watch:
            asked = train(start, grid, stop, watch)
    except AgreedError as error:
        if not first:
            return USER_ERROR
        if status is not None:
            leave_word(run_dir, status, "failed", str(error))
        return fail(str(error))
    except ValueError as error:  # another node may read what this one cannot
        problem = f"rank {grid.rank}: {error}"
        if status is not None:
            leave_word(run_dir, status, "failed", problem)
        if grid.world_size > 1:
            end_at_once(fail(problem))
        return fail(problem)
    except WaitingEnded as ended:  # the others may wait for this rank
        leave_word(
            run_dir, status_at_start(run_dir, newest_step(run_dir)), "interrupted", str(ended)
        )
        print(f"rank {grid.rank}: {ended}", file=sys.stderr)
        end_at_once(START_AGAIN)
    if first and asked:
        leave_word(run_dir, status, "interrupted", asked)
    elif first:
        leave_word(run_dir, status, "finished", f"{config.total_steps} steps")
    return START_AGAIN if asked else 0

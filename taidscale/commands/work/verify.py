"""What `taidscale verify` does: the ranks check together, the first one prints."""

import os
import time

from taidscale.commands.outcome import USER_ERROR, fail
from taidscale.config.load import check_world
from taidscale.config.schema import RunConfig
from taidscale.engine.runtime import adopt_launcher, end_ranks, start_ranks
from taidscale.parallel.agreement import together
from taidscale.parallel.grid import AgreedError
from taidscale.verification.checks import read_models, run_checks
from taidscale.verification.finding import table


def verify(config: RunConfig) -> int:
    """Start the ranks, check, and print what was found; the exit status."""
    started = time.perf_counter()
    try:
        check_world(config, *adopt_launcher())
        grid = start_ranks(config.tp_size, config.seed)
    except ValueError as error:  # alike on all ranks
        return fail(str(error)) if os.environ.get("RANK", "0") == "0" else USER_ERROR

    def say(text: str) -> None:
        if grid.is_first:
            print(text, flush=True)

    try:
        models = together(grid, lambda: read_models(config))
        findings, nodes = run_checks(config, models, grid, int(os.environ["LOCAL_RANK"]), say)
    except AgreedError as error:
        return fail(str(error)) if grid.is_first else USER_ERROR
    except ValueError as error:  # the launcher ends the ranks that wait for this one
        return fail(f"rank {grid.rank}: {error}")
    wrong = sum(finding.culprit is not None for finding in findings)
    verdict = f"{wrong} of {len(findings)} checks failed" if wrong else "all checks passed"
    say("\n".join(["", *nodes, "", *table(findings), ""]))
    say(f"{grid.world_size} ranks verified in {time.perf_counter() - started:.1f} s: {verdict}")
    end_ranks()
    return 1 if wrong else 0

"""Find out, in a minute or two and before a run, whether this cluster computes right gradients.

torchrun --nnodes 8 ... tools/verify.py CONFIG [section.setting=value ...]

Started on all nodes like the run itself, with the same arguments. With the run's own objective,
sizes, tp_size, precision and ZeRO stage it compares: the vocabulary-parallel loss and its gradients
with dense ones in float64; the first layers of the tensor-parallel teacher with the same layers
whole in float32; t, schedules and parameters of all ranks after training steps of small models;
such a run that was saved and loaded with an undisturbed one; and the nodes, as
tools/check_nodes.py does. The exit status is 1 where something is wrong, and then the culprit is
named; 2 where the command is.
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taidscale.config.schema import RunConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a bare clone


def main() -> int:
    """Check together; the first rank prints. The exit status is the same on all ranks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="YAML file of the run")
    parser.add_argument("overrides", nargs="*", help="section.setting=value")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # deepspeed adds it
    options = parser.parse_intermixed_args()
    is_first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.ERROR)
    started = time.perf_counter()
    try:
        from taidscale.config.load import check_world, load_config
        from taidscale.engine.runtime import adopt_launcher

        world_size, local_world_size = adopt_launcher()
        config = load_config(options.config, options.overrides)
        check_world(config, world_size, local_world_size)
    except ValueError as error:  # alike on all ranks
        return fail(str(error)) if is_first else 2
    return verify(config, started)


def verify(config: "RunConfig", started: float) -> int:
    """Start the ranks, check, and print what was found; the exit status."""
    from taidscale.engine.runtime import end_ranks, start_ranks
    from taidscale.parallel.agreement import together
    from taidscale.parallel.grid import AgreedError
    from taidscale.verification.checks import read_models, run_checks
    from taidscale.verification.finding import table

    grid = start_ranks(config.teacher.tp_size if config.teacher else 1, config.seed)

    def say(text: str) -> None:
        if grid.is_first:
            print(text, flush=True)

    try:
        models = together(grid, lambda: read_models(config))
        findings, nodes = run_checks(config, models, grid, int(os.environ["LOCAL_RANK"]), say)
    except AgreedError as error:
        return fail(str(error)) if grid.is_first else 2
    except ValueError as error:  # the launcher ends the ranks that wait for this one
        return fail(f"rank {grid.rank}: {error}")
    wrong = sum(finding.culprit is not None for finding in findings)
    verdict = f"{wrong} of {len(findings)} checks failed" if wrong else "all checks passed"
    say("\n".join(["", *nodes, "", *table(findings), ""]))
    say(f"{grid.world_size} ranks verified in {time.perf_counter() - started:.1f} s: {verdict}")
    end_ranks()
    return 1 if wrong else 0


def fail(problem: str) -> int:
    """Say it; the exit status."""
    print(f"error: {problem}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())

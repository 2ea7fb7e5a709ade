"""A run that stands still after so many steps for as long as a file of that name is there.

Started in the place of `-m taidscale.train`; the folder of the files is in HOLDS, the run's
`metrics.jsonl` in HELD_METRICS.
"""

import os
import sys
from pathlib import Path

from taidscale.commands.train import main
from taidscale.data.loader import TrainingLoader

HELD_RUN = str(Path(__file__))


def steps_done(metrics: Path) -> int:
    """Lines of a run's metrics."""
    return metrics.read_text().count("\n") if metrics.exists() else 0


if __name__ == "__main__":
    holds, metrics = (Path(os.environ[name]) for name in ("HOLDS", "HELD_METRICS"))
    next_step = TrainingLoader.next_step

    def held(loader: TrainingLoader) -> object:
        """The same, once nothing holds it."""
        while (holds / str(steps_done(metrics))).exists():
            os.sched_yield()  # a clock that is set forward or back lets no sleep begin
        return next_step(loader)

    TrainingLoader.next_step = held
    sys.exit(main())

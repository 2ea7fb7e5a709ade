"""What W&B has of a run that was offline in all its starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.metrics.test_run_log import make_config, write
from tests.metrics.wandb_server import wandb_server


@pytest.mark.parametrize("when", ["in the end", "after every start"])
def test_sync_keeps_the_history_of_all_starts(
    tmp_path: Path, when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path, wandb={"mode": "offline"})
    with wandb_server() as (address, runs):
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WANDB_")},
            "WANDB_BASE_URL": address,
            "WANDB_API_KEY": 40 * "a",
        }
        for first in (1, 5, 9):
            write(config, range(first, first + 4), first_step=first - 1)
            if when == "after every start" or first == 9:
                command = [sys.executable, "-m", "wandb", "sync", "--yes"]
                done = subprocess.run(
                    command, cwd=tmp_path, env=environment, capture_output=True, text=True
                )
                assert done.returncode == 0, done.stderr
        (history,) = runs.values()
        losses = [entry["step"] for line in history if "loss" in (entry := json.loads(line))]
    assert losses == [*range(1, 13)]
    assert f"cd {tmp_path} && wandb sync --yes" in capsys.readouterr().out

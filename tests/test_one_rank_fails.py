"""What one rank alone cannot do is an error of the whole run: said, kept, not tried again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from taidscale.engine.runtime import check_gpus
from taidscale.run.status import RunStatus, ask_to_start, newest_step
from tests.runs import make_run

ROOT = Path(__file__).parents[1]


def test_a_shard_that_only_the_second_rank_finds_damaged(tmp_path: Path) -> None:
    config = make_run(tmp_path, evaluation=None)
    shutil.copytree(tmp_path / "train", tmp_path / "damaged")
    for shard in (tmp_path / "damaged").rglob("*.mds"):
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    start = tmp_path / "start.sh"
    start.write_text(
        "[ $RANK = 1 ] && data=damaged || data=train\n"
        f'exec {sys.executable} -m taidscale.train {config} "data.streams=[{{name: train, '
        f'local: {tmp_path}/$data}}]"\n'
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-port=29617", "--no-python", "bash", str(start)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "error: rank 1: cannot read the data of step 1: " in done.stderr
    status = RunStatus.read(tmp_path / "run")
    assert status is not None
    assert status.state == "failed", status
    assert status.message.startswith("rank 1: cannot read the data of step 1: ")
    again, why = ask_to_start(tmp_path / "run", newest_step(tmp_path / "run"))
    assert not again, why


@pytest.mark.parametrize(
    ("local_rank", "local_world_size", "visible", "message"),
    [
        (0, 8, 4, "8 ranks on this node and 4 GPUs that they see"),
        (7, 8, 1, "8 ranks on this node and 1 GPU that they see"),
    ],
)
def test_more_ranks_than_gpus(
    local_rank: int, local_world_size: int, visible: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_gpus(local_rank, local_world_size, visible)


@pytest.mark.parametrize(("local_world_size", "visible"), [(8, 8), (2, 8), (1, 1), (16, 0)])
def test_enough_gpus_or_none(local_world_size: int, visible: int) -> None:
    check_gpus(local_world_size - 1, local_world_size, visible)

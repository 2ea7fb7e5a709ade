"""Ranks that are killed at random moments cost no more than the steps since the last save."""

from pathlib import Path

import pytest

from tests.kill_at_random import kill_at_random


@pytest.mark.parametrize("write", ["background", "blocking"])
def test_killed_at_random(tmp_path: Path, write: str) -> None:
    score = kill_at_random(tmp_path, kills=4, seed=1, write=write)
    assert score.kills == 4
    assert score.finished >= 1

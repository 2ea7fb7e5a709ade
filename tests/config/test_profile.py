"""The window of steps to record."""

from pathlib import Path

import pytest

from taidscale.config.load import load_config
from tests.config.base_run import only_error


def test_none_by_default_and_a_window(base: Path) -> None:
    assert load_config(base).profile is None
    profile = load_config(base, ["profile.steps=[10, 100]"]).profile
    assert profile is not None
    assert profile.steps == (10, 100)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ("[10, 101]", "profile.steps: [10, 101] ends after total_steps (100)"),
        ("[5, 4]", "profile: steps: the first (5) must not be after the last (4)"),
        ("[0, 4]", "profile.steps.0: input should be greater than 0 (got 0)"),
        ("[4]", "profile.steps.1: is missing"),
        ("[1, 2, 3]", "profile.steps: tuple should have at most 2 items"),
        ("5", "profile.steps: input should be a valid tuple (got 5)"),
    ],
)
def test_windows_that_are_none(base: Path, steps: str, says: str) -> None:
    assert only_error(base, f"profile.steps={steps}").startswith(says)

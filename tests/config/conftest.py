from pathlib import Path

import pytest

from tests.config.base_run import BASE


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(BASE)
    return path

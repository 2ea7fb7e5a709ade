"""Every configuration in `configs/` loads, and there are ranks that it fits."""

from pathlib import Path

import pytest

from taidscale.config.load import ConfigError, check_world, load_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def test_the_promised_ones_exist() -> None:
    promised = {"quickstart.yaml", "tinyswallow-1.5b.yaml", "smollm-corpus-tinyllama.yaml"}
    assert promised <= {path.name for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_loads(path: Path) -> None:
    config = load_config(path)
    worlds = [(size, min(size, 8)) for size in (1, 2, 4, 8, 16, 32, 64, 128, 256)]
    problems = []
    for world_size, local_world_size in worlds:
        try:
            check_world(config, world_size, local_world_size)
        except ConfigError as error:
            problems.append(str(error))
    assert len(problems) < len(worlds), "\n".join(problems)

"""A right configuration, and what is said when something in it is wrong."""

from pathlib import Path
from typing import Any

import pytest

from taidscale.config.load import ConfigError, load_config
from taidscale.config.loss import TaidLoss
from taidscale.config.schema import RunConfig

BASE = """
run_dir: runs/tiny
total_steps: 100
seq_len: 64
micro_batch_size: 2
global_batch_size: 16
teacher: {model: org/teacher, tp_size: 2}
student:
  init: {source: pretrained, model: org/student}
loss:
  objective: taid
  t: {schedule: adaptive, alpha: 0.001}
learning_rate: {schedule: cosine, peak: 3e-4, warmup_steps: 10}
data:
  streams:
    - {local: shards/a, proportion: 2}
    - {local: shards/b, proportion: 1}
evaluation: {data: shards/valid, every_steps: 50}
checkpoint: {every_steps: 50}
"""


def errors(path: Path, *overrides: str) -> list[str]:
    """The lines of the error that loading must raise, the headline apart."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, list(overrides))
    headline, *lines = str(caught.value).splitlines()
    assert headline.startswith(f"{path}: ")
    return [line.strip() for line in lines]


def only_error(path: Path, *overrides: str) -> str:
    (line,) = errors(path, *overrides)
    return line


def taid_t(config: RunConfig) -> Any:
    assert isinstance(config.loss, TaidLoss)
    return config.loss.t

"""FLOP/s from what the starts of a run recorded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taidscale.config.load import dump_config
from taidscale.report.history import RunHistory, RunReader
from taidscale.report.throughput import peak_of, throughput
from tests.metrics.test_run_log import make_config

FACTS = {"num_ranks": 4, "device": "NVIDIA H100 80GB HBM3", "parameters": 1_500_000_000}


def read_run(folder: Path, starts: dict[int, dict[str, Any]], **settings: Any) -> RunHistory:
    """A run of 10 steps of 1,000 tokens a second."""
    (folder / "config.yaml").write_text(dump_config(make_config(folder, **settings)))
    steps = [{"step": step, "tokens_per_second": 1000.0} for step in range(1, 11)]
    events = [{"event": "start", "step": at, "message": "", **f} for at, f in starts.items()]
    for name, entries in (("metrics", steps), ("events", events)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    return RunReader(folder, "run").read(lambda _: None)


def test_six_operations_a_parameter_and_two_of_the_teacher(tmp_path: Path) -> None:
    facts = {**FACTS, "teacher_parameters": 32_000_000_000}
    settings = {"loss": {"objective": "forward_kl"}, "teacher": {"model": "unused"}}
    found = throughput(read_run(tmp_path, {0: facts}, **settings))
    assert found is not None
    wanted = 1000 * (6 * 1.5e9 + 2 * 32e9) / 4 / 1e12
    np.testing.assert_allclose(found.tflops_per_rank, wanted)
    np.testing.assert_allclose(found.utilisation, wanted / 989.4)


def test_operations_that_a_start_noted(tmp_path: Path) -> None:
    """With attention, and of a mixture only the experts of a token."""
    facts = {**FACTS, "teacher_parameters": 32_000_000_000, "flops_per_token": 3e10}
    settings = {"loss": {"objective": "forward_kl"}, "teacher": {"model": "unused"}}
    found = throughput(read_run(tmp_path, {0: facts}, **settings))
    assert found is not None
    np.testing.assert_allclose(found.tflops_per_rank, 1000 * 3e10 / 4 / 1e12)


def test_a_teacher_for_evaluation_alone_does_not_count(tmp_path: Path) -> None:
    run = read_run(tmp_path, {0: {**FACTS, "teacher_parameters": 32_000_000_000}})
    found = throughput(run, peak_tflops=100.0)
    assert found is not None
    np.testing.assert_allclose(found.tflops_per_rank, 1000 * 6 * 1.5e9 / 4 / 1e12)
    np.testing.assert_allclose(found.utilisation, found.tflops_per_rank / 100)


def test_each_start_counts_for_its_steps(tmp_path: Path) -> None:
    on_cpus = {**FACTS, "num_ranks": 2, "device": "CPU"}
    found = throughput(read_run(tmp_path, {0: FACTS, 6: on_cpus}))
    assert found is not None
    reached = 1000 * 6 * 1.5e9 / 1e12
    np.testing.assert_allclose(found.tflops_per_rank, [reached / 4] * 6 + [reached / 2] * 4)
    assert found.utilisation is not None
    assert np.isfinite(found.utilisation).tolist() == [True] * 6 + [False] * 4


def test_nothing_recorded(tmp_path: Path) -> None:
    assert throughput(read_run(tmp_path, {0: {}})) is None


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.0),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA L40S", 362.0),
        ("AMD Instinct MI300X", 1307.4),
        ("NVIDIA A10G", None),
        ("CPU", None),
    ],
)
def test_peaks_by_name(device: str, peak: float | None) -> None:
    assert peak_of(device) == peak

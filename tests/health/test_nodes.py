"""What is measured on each node, and what the figures mean."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode

from taidscale.health.devices import matrix_flops
from taidscale.health.node_findings import find_problems, table
from taidscale.health.nodes import RankReport, Sizes, look_at_nodes, pairings
from taidscale.parallel.grid import make_grid
from tests.ranks import on_ranks

CPU = torch.device("cpu")
SMALL = Sizes(matrix=64, message_bytes=2**16, file_bytes=2**16)


def report(number: int, **found: Any) -> RankReport:
    """A healthy GPU, one of two on each node."""
    healthy: dict[str, Any] = {
        "host": f"node{number // 2}",
        "node": number // 2 * 2,
        "versions": {"torch": "2.15.0", "driver": "580.1"},
        "device": "H100",
        "memory_bytes": 2**40,
        "flops": 7e14,
        "bytes_inside": 3e11,
        "bytes_across": 4e10,
        "clock_offset": 0.002,
        "free_bytes": 10**12,
        "bytes_written": 1e9,
    }
    return RankReport(**healthy | found)


def problems(**of_rank_2: Any) -> list[str]:
    """Of three nodes, the second of which is not well."""
    ranks = [report(0), report(1), report(2, **of_rank_2), report(3), report(4), report(5)]
    return find_problems(ranks, needed_bytes=10**11, slow_ratio=1.5)


def test_healthy_nodes_have_no_problems() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"problems": ["GPU 0: 3 errors"]}, "GPU 0: 3 errors"),
        ({"versions": {"torch": "2.15.0", "driver": "570.0"}}, "driver 570.0, and 580.1 elsewhere"),
        ({"versions": {"torch": "2.15.0"}}, "driver None, and 580.1 elsewhere"),
        ({"device": "A100"}, "A100, and H100 elsewhere"),
        ({"clock_offset": -7.2}, r"its clock is -7\.2 s from the others'"),
        ({"free_bytes": 5 * 10**10}, r"50\.0 GB are free for checkpoints, .* about 100\.0 GB"),
        ({"flops": 4e14}, r"H100 of rank 2 computes 1\.8 times slower"),
        ({"bytes_inside": 1e11}, r"its ranks exchange 3\.0 times slower"),
        ({"bytes_across": 1e10}, r"it and its neighbours exchange 4\.0 times slower"),
        ({"bytes_written": 1e8}, r"it writes checkpoints 10\.0 times slower"),
    ],
)
def test_the_node_is_named_with_what_is_wrong(found: dict[str, Any], says: str) -> None:
    (problem,) = problems(**found)
    assert problem.startswith("node1: ")
    assert re.search(says, problem), problem


def test_a_node_with_fewer_ranks_is_named() -> None:
    ranks = [report(0), report(1), report(2), report(4), report(5)]
    (problem,) = find_problems(ranks, 0, 1.5)
    assert problem == "node1: 1 ranks, and 2 elsewhere: start as many on each"


def test_the_table_has_a_row_for_each_node() -> None:
    ranks = [report(number) for number in range(4)]
    ranks[3] = replace(ranks[3], flops=3.5e14, bytes_inside=None)
    versions, header, first, second = table(ranks)
    assert versions == "torch 2.15.0, driver 580.1"
    assert first.split() == [
        "node0",
        "2",
        "2",
        "H100",
        "1,024",
        "700",
        "300",
        "40",
        "+2.0",
        "1,000",
        "1,000",
    ]
    assert "350" in second
    assert len(header) == len(first) == len(second)


@pytest.mark.parametrize("num_nodes", range(1, 9))
def test_each_node_meets_its_neighbours_and_no_two_at_once(num_nodes: int) -> None:
    rounds = pairings(num_nodes)
    for pairs in rounds:
        busy = [node for pair in pairs for node in pair]
        assert len(busy) == len(set(busy))
    met = {frozenset(pair) for pairs in rounds for pair in pairs}
    assert met == {frozenset({n, (n + 1) % num_nodes}) for n in range(num_nodes) if num_nodes > 1}


class OneWrongEntry(TorchFunctionMode):
    """A device whose products of matrices have an error in one place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.matmul and result.dtype == torch.float32:
            result[3, 5] += 1
        return result


def test_a_device_that_computes_wrong_is_found() -> None:
    assert matrix_flops(CPU, 128) > 0
    with OneWrongEntry(), pytest.raises(ArithmeticError, match="1 of 128 rows"):
        matrix_flops(CPU, 128)


@on_ranks(4)
def test_all_ranks_see_all_reports(tmp_path: Path) -> None:
    """Two nodes of two ranks, though of one host."""
    grid = make_grid(1, CPU)
    reports = look_at_nodes(grid, grid.rank % 2, tmp_path / "run" / "checkpoints", SMALL)
    assert [found.node for found in reports] == [0, 0, 2, 2]
    assert not [found.problems for found in reports if found.problems]
    for found in reports:
        assert min(found.flops or 0, found.bytes_inside or 0, found.bytes_across or 0) > 1e3
        assert abs(found.clock_offset) < 1
    written = [found.bytes_written is not None for found in reports]
    assert written == [True, False, True, False]
    dist.barrier()
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert find_problems(reports, 0, slow_ratio=1e6) == []


@on_ranks(2)
def test_a_folder_that_cannot_be_written_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    grid = make_grid(1, CPU)
    reports = look_at_nodes(grid, grid.rank, tmp_path / "file" / "run", SMALL)
    (problem,) = reports[0].problems + reports[1].problems
    assert problem.startswith(f"cannot write to {tmp_path}/file/run: ")

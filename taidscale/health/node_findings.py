"""What the ranks' reports of their nodes mean: a table, and what is wrong."""

from collections import Counter
from collections.abc import Callable, Iterable
from statistics import median

from taidscale.health.nodes import RankReport

MAX_CLOCK_SECONDS = 1.0
"""Between two nodes: times in logs, certificates and caches of network file systems differ else."""

SLOW_WRITES = 4.0
"""Factor between nodes that write at once to one file system; it is never quite fair."""

Nodes = list[list[RankReport]]
"""The reports of each node's ranks."""


def by_node(reports: list[RankReport]) -> Nodes:
    """In rank order."""
    numbers = sorted({report.node for report in reports})
    return [[report for report in reports if report.node == number] for number in numbers]


def find_problems(reports: list[RankReport], needed_bytes: int, slow_ratio: float) -> list[str]:
    """What is wrong, each with what to do about it.

    Args:
        reports: of all ranks, in rank order.
        needed_bytes: what the checkpoints of the run will take.
        slow_ratio: whoever computes or exchanges slower than the median of the others by this
            factor is named.
    """
    nodes = by_node(reports)
    found = [f"{r.host}: {problem}" for r in reports for problem in r.problems]
    found += _differences(nodes)
    found += [
        f"{rank.host}: its clock is {rank.clock_offset:+.1f} s from the others': start NTP"
        for rank in _first_of(nodes)
        if abs(rank.clock_offset) > MAX_CLOCK_SECONDS
    ]
    found += [
        f"{rank.host}: {rank.free_bytes / 1e9:,.1f} GB are free for checkpoints, the run keeps "
        f"about {needed_bytes / 1e9:,.1f} GB of them: free space, or lower checkpoint.keep_last"
        for rank in _first_of(nodes)
        if rank.free_bytes is not None and rank.free_bytes < needed_bytes
    ]
    remedy = "leave it out, or see why"
    names = [f"{rank.host}: {rank.device} of rank {number}" for number, rank in enumerate(reports)]
    found += _slow(names, [r.flops for r in reports], "computes", slow_ratio, remedy)
    names = [f"{ranks[0].host}: its ranks" for ranks in nodes]
    inside, across = (
        [_slowest(ranks, _inside) for ranks in nodes],
        [_slowest(r, _across) for r in nodes],
    )
    found += _slow(names, inside, "exchange", slow_ratio, remedy + " (NVLink, NCCL_DEBUG=INFO)")
    remedy += " (its network adapters, NCCL_DEBUG=INFO)"
    names = [f"{ranks[0].host}: it and its neighbours" for ranks in nodes]
    found += _slow(names, across, "exchange", slow_ratio, remedy)
    names = [f"{ranks[0].host}: it" for ranks in nodes]
    written = [ranks[0].bytes_written for ranks in nodes]
    return found + _slow(
        names, written, "writes checkpoints", max(SLOW_WRITES, slow_ratio), "see its mount"
    )


def table(reports: list[RankReport]) -> list[str]:
    """The versions that all share, and a row for each node."""
    nodes = by_node(reports)
    common = _majority(ranks[0].versions for ranks in nodes)
    header = ["node", "ranks", "device", "host GiB", "TFLOP/s", "GB/s inside", "GB/s across"]
    rows = [[*header, "clock [ms]", "free GB", "writes MB/s"]]
    for ranks in nodes:
        first = ranks[0]
        devices = Counter(rank.device for rank in ranks)
        rows.append(
            [
                first.host,
                str(len(ranks)),
                " and ".join(f"{count} {name}" for name, count in devices.items()),
                f"{first.memory_bytes / 2**30:,.0f}",
                _shown(_slowest(ranks, lambda rank: rank.flops), 1e12, ".3g"),
                _shown(_slowest(ranks, _inside), 1e9, ".3g"),
                _shown(_slowest(ranks, _across), 1e9, ".3g"),
                f"{first.clock_offset * 1e3:+.1f}",
                _shown(first.free_bytes, 1e9, ",.0f"),
                _shown(first.bytes_written, 1e6, ",.0f"),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [", ".join(f"{name} {number}" for name, number in common.items())]
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
        cells[0] = f"{row[0]:<{widths[0]}}"
        lines.append("  ".join(cells))
    return lines


def _differences(nodes: Nodes) -> list[str]:
    """Nodes that have other versions, other GPUs or other numbers of ranks than most."""
    firsts = _first_of(nodes)
    found = []
    common = _majority(rank.versions for rank in firsts)
    for rank in firsts:
        for name, number in common.items():
            if (own := rank.versions.get(name)) != number:
                found.append(
                    f"{rank.host}: {name} {own}, and {number} elsewhere: install the same on all"
                )
    device = Counter(rank.device for ranks in nodes for rank in ranks).most_common(1)[0][0]
    size = Counter(len(ranks) for ranks in nodes).most_common(1)[0][0]
    for ranks in nodes:
        others = sorted({rank.device for rank in ranks} - {device})
        if others:
            found.append(
                f"{ranks[0].host}: {' and '.join(others)}, and {device} elsewhere: leave it out"
            )
        if len(ranks) != size:
            found.append(
                f"{ranks[0].host}: {len(ranks)} ranks, and {size} elsewhere: start as many on each"
            )
    return found


def _slow(
    names: list[str], speeds: list[float | None], does: str, ratio: float, remedy: str
) -> list[str]:
    """Who is slower than the median of the others by the factor."""
    known = [(name, speed) for name, speed in zip(names, speeds, strict=True) if speed is not None]
    found = []
    for number, (name, speed) in enumerate(known):
        others = [other for place, (_, other) in enumerate(known) if place != number]
        if others and (usual := median(others)) > ratio * speed:
            found.append(
                f"{name} {does} {usual / speed:.1f} times slower than the others: {remedy}"
            )
    return found


def _first_of(nodes: Nodes) -> list[RankReport]:
    return [ranks[0] for ranks in nodes]


def _slowest(ranks: list[RankReport], speed: Callable[[RankReport], float | None]) -> float | None:
    return min((found for rank in ranks if (found := speed(rank)) is not None), default=None)


def _inside(rank: RankReport) -> float | None:
    return rank.bytes_inside


def _across(rank: RankReport) -> float | None:
    return rank.bytes_across


def _majority(versions: Iterable[dict[str, str]]) -> dict[str, str]:
    """Of each name, the version that most have; the first of those that equally many have."""
    listed = list(versions)
    names = dict.fromkeys(name for found in listed for name in found)
    return {
        name: Counter(str(found.get(name)) for found in listed).most_common(1)[0][0]
        for name in names
    }


def _shown(value: float | None, unit: float, form: str) -> str:
    return "-" if value is None else format(value / unit, form)

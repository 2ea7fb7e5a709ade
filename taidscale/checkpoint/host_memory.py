"""How much memory of this node is free, also where a job may use a part of it only."""

from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_VERSIONS = {
    # The files of a control group: its limit, what it uses, and what of that is only cache.
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def free_host_memory() -> tuple[int, int]:
    """Bytes that are free, and bytes in all: the node's, or those of the tightest limit on us."""
    node = _table(Path("/proc/meminfo"))
    found = [(node["MemAvailable:"] * 1024, node["MemTotal:"] * 1024)]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            found += _limits(_CGROUPS, name, 2)
        elif "memory" in controllers.split(","):
            found += _limits(_CGROUPS / "memory", name, 1)
    return min(found)


def _limits(root: Path, name: str, version: int) -> list[tuple[int, int]]:
    """Free and total bytes of a control group and of those that it lies in."""
    limit_file, usage_file, cache = _VERSIONS[version]
    own = root / name.lstrip("/")
    found = []
    for folder in (own, *own.parents):
        try:
            limit = int((folder / limit_file).read_text())
            used = int((folder / usage_file).read_text())
            used -= _table(folder / "memory.stat")[cache]
        except (OSError, ValueError, KeyError):  # "max", or not a control group
            continue
        found.append((limit - used, limit))
    return found


def _table(path: Path) -> dict[str, int]:
    """The first two columns of a file."""
    return {words[0]: int(words[1]) for words in map(str.split, path.read_text().splitlines())}

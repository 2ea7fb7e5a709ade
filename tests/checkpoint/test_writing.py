"""Copies hold what was there when they were taken, and what they leave on the disk is checked."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taidscale.checkpoint.host_memory import _limits, free_host_memory
from taidscale.checkpoint.manifest import read_hash
from taidscale.checkpoint.writing import BLOCK_BYTES, HostMemory, RankFiles


def state(seed: int = 0) -> dict[str, Any]:
    """More than two blocks, small tensors, views, and what is no tensor."""
    generator = torch.Generator().manual_seed(seed)
    large = torch.randn(BLOCK_BYTES // 2, generator=generator)
    return {
        "large": large,
        "view": large[5:9],
        "tied": large,
        "small": [torch.arange(3), torch.tensor(2.0, dtype=torch.bfloat16)],
        "text": "語",
        "deep": {"none": None, "shape": torch.Size([3, 4])},
    }


def assert_equal(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name in ("large", "view", "tied"):
        assert torch.equal(found[name], expected[name])
    assert found["tied"].data_ptr() == found["large"].data_ptr()  # stored once
    assert all(map(torch.equal, found["small"], expected["small"]))
    assert (found["text"], found["deep"]) == (expected["text"], expected["deep"])


@pytest.mark.parametrize(
    ("memory", "held"),
    [(None, False), (HostMemory(), True), (HostMemory(keep_free=1.0), False)],
    ids=["blocking", "background", "too little memory"],
)
def test_the_copy_is_of_its_moment(tmp_path: Path, memory: HostMemory | None, held: bool) -> None:
    for step in range(2):  # with new memory, and with what the first one used
        folder = tmp_path / str(step)
        folder.mkdir()
        files = RankFiles(folder, 3, memory)
        live = state(step)
        files.put(live, folder / "a.pt")
        files.put({"step": step}, folder / "b.pt")
        assert (folder / "a.pt").exists() != held
        live["large"].zero_()
        live["text"] = "changed"
        entries = files.finish()
        assert_equal(torch.load(folder / "a.pt", weights_only=False), state(step))
        assert torch.load(folder / "b.pt") == {"step": step}
        assert list(entries) == ["a.pt", "b.pt"]
        for name, entry in entries.items():
            num_bytes, sha256 = read_hash(folder / name)
            assert entry == {"bytes": num_bytes, "sha256": sha256, "rank": 3}
            assert num_bytes == (folder / name).stat().st_size


def test_memory_that_runs_short_in_the_middle(tmp_path: Path) -> None:
    """What is held already is written first, and the file is one."""
    memory = HostMemory(keep_free=1.0)
    memory.give_back(HostMemory().take() or pytest.fail("no memory"))
    files = RankFiles(tmp_path, 0, memory)
    files.put(state(), tmp_path / "a.pt")
    assert (tmp_path / "a.pt").exists()
    files.finish()
    assert_equal(torch.load(tmp_path / "a.pt", weights_only=False), state())
    assert memory.take() is not None  # the one block came back


def test_what_the_disk_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    files = RankFiles(tmp_path, 0, None)
    files.put(state(), path)
    with path.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(OSError, match=r"a\.pt: read back, .* SHA-256 .* cannot be trusted"):
        files.finish()


def put_and_finish(files: RankFiles, content: Any, path: Path) -> None:
    files.put(content, path)
    files.finish()


@pytest.mark.parametrize("memory", [None, HostMemory()], ids=["blocking", "background"])
@pytest.mark.parametrize("content", [state, lambda: {"small": 1}], ids=["large", "small"])
def test_a_full_device(
    tmp_path: Path, memory: HostMemory | None, content: Callable[[], Any]
) -> None:
    """The reason is the system's, not what `torch.save` makes of it."""
    path = tmp_path / "a.pt"
    path.symlink_to("/dev/full")
    files = RankFiles(tmp_path, 0, memory)
    with pytest.raises(OSError, match=r"a\.pt: \[Errno 28\] No space left on device"):
        put_and_finish(files, content(), path)


def test_free_memory() -> None:
    free, total = free_host_memory()
    assert 0 < free < total <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("version", "names", "cache"),
    [
        (1, ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"),
        (2, ("memory.max", "memory.current"), "inactive_file"),
    ],
)
def test_limits_of_a_job(tmp_path: Path, version: int, names: tuple[str, str], cache: str) -> None:
    """Slurm sets them on a folder above the process's own."""

    def group(folder: Path, limit: str, used: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 7\n{cache} 30\n")

    group(tmp_path / "job", "1000", 400)
    group(tmp_path / "job" / "step", "max" if version == 2 else str(2**63), 300)
    found = _limits(tmp_path, "/job/step", version)
    assert min(found) == (630, 1000)
    assert len(found) == (1 if version == 2 else 2)
    assert _limits(tmp_path, "/elsewhere", version) == []

"""Which operations a few steps spend their time on, as torch's profiler sees them."""

import gzip
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from taidscale.config.profile import ProfileConfig
from taidscale.durable import replace_file, written_aside
from taidscale.file_names import PROFILE_FOLDER

log = logging.getLogger(__name__)

TABLE = "table.txt"
"""Of the first rank, beside the traces of all."""
NUM_DEAREST = 10


@dataclass(frozen=True)
class Operation:
    """All calls of one operation within the recorded steps."""

    name: str
    calls: int
    seconds: float
    """Of its own, without the operations that it calls; of the GPU, where there is one."""


class Profiler:
    """Records the steps of `profile.steps` on this rank, once, and writes what they did.

    A start within the window records the rest of it; one after it does nothing.
    """

    def __init__(
        self, config: ProfileConfig | None, run_dir: Path, rank: int, device: torch.device
    ) -> None:
        """Nothing is recorded yet.

        Args:
            config: the window; None records nothing at all.
            run_dir: folder of the run.
            rank: of this process.
            device: on which it computes.
        """
        self._first, self._last = (1, 0) if config is None else config.steps
        self._folder = run_dir / PROFILE_FOLDER
        self._rank = rank
        self._on_gpu = device.type == "cuda"
        self._recording: profile | None = None
        self._began = 0

    def before_step(self, step: int) -> None:
        """Begin to record, if `step`, counted from 1, is in the window."""
        if self._recording is None and self._first <= step <= self._last:
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] if self._on_gpu else []
            self._recording = profile(activities=activities)
            self._recording.start()
            self._began = step

    def after_step(self, step: int) -> None:
        """Write the trace, and on the first rank the table, if `step` is the window's last.

        A disk that has no room for them is no reason to end the run: it is said, and it goes on.
        """
        if self._recording is None or step != self._last:
            return
        self._recording.stop()
        try:
            self._folder.mkdir(exist_ok=True)
            self._write_trace(self._folder / f"rank-{self._rank:05d}.json.gz", self._recording)
            if self._rank == 0:
                self._write_table(dearest(self._recording, on_gpu=self._on_gpu))
        except OSError as error:
            log.error("rank %d: the profile could not be written: %s", self._rank, error)
        self._recording, self._last = None, 0

    def close(self) -> None:
        """Say so, if the run ends within the window: what was recorded is not written."""
        if self._recording is not None:
            log.warning(
                "profile: the run ends before step %d, and nothing is written; the next start "
                "records what is left of the window",
                self._last,
            )
            self._recording.stop()
            self._recording = None

    def _write_trace(self, path: Path, recording: profile) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder, written_aside(path) as aside:
            plain = Path(folder) / "trace.json"
            recording.export_chrome_trace(str(plain))
            with plain.open("rb") as read, gzip.open(aside, "wb") as write:
                shutil.copyfileobj(read, write)

    def _write_table(self, operations: list[Operation]) -> None:
        where = "of the GPU" if self._on_gpu else "of the CPU"
        title = f"steps {self._began} to {self._last} of rank 0, seconds {where}"
        table = "\n".join([title, *table_lines(operations)])
        replace_file(self._folder / TABLE, table + "\n")
        log.info("profile: %s\ntraces of all ranks are in %s", table, self._folder)


def dearest(recording: profile, *, on_gpu: bool) -> list[Operation]:
    """All operations of a recording, those with the most seconds first."""
    found = [
        Operation(
            event.key,
            event.count,
            (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6,
        )
        for event in recording.key_averages()
    ]
    return sorted(found, key=lambda operation: operation.seconds, reverse=True)


def table_lines(operations: list[Operation]) -> list[str]:
    """The dearest of them, with their share of the seconds of all."""
    total = sum(operation.seconds for operation in operations) or 1.0
    shown = operations[:NUM_DEAREST]
    width = max([len("operation"), *(min(len(operation.name), 60) for operation in shown)])
    lines = [f"{'operation':<{width}}  {'calls':>9}  {'seconds':>9}  {'share':>6}"]
    lines += [
        f"{operation.name[:60]:<{width}}  {operation.calls:>9,}  {operation.seconds:>9.4f}  "
        f"{operation.seconds / total:>6.1%}"
        for operation in shown
    ]
    return lines

"""Is this rank still at work?"""

import contextlib
import faulthandler
import json
import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Self

from taidscale.durable import replace_file
from taidscale.file_names import HEARTBEAT_FILE, STACKS_FOLDER

log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""Between the stacks and the exit: launchers kill the other ranks as soon as one has ended, and
these shall have written theirs by then.
"""
_BEAT_SECONDS = 10.0


class Watchdog:
    """Ends this process if its loop stands still, which waiting for another rank may cause.

    A thread looks at the time since the last beat; beyond the limit it writes the stacks of all
    threads to `run_dir/stacks/rank-00003.txt`, gives the other ranks time to do so too, and ends
    the process with status 75: start the same command again. Time during which the process itself
    was stopped does not count. Should the thread be kept from running, by an extension that holds
    the interpreter, faulthandler, which does without, writes the stacks after twice the limit, and
    ends the process with status 1.

    Cost: no collectives; where one rank stands still, the others soon wait for it.
    """

    def __init__(self, run_dir: Path, rank: int, limit_seconds: float) -> None:
        """Nothing happens before it is entered.

        Args:
            run_dir: where the stacks go.
            rank: of this process.
            limit_seconds: for one step; see `allow` for what takes longer.
        """
        self._path = run_dir / STACKS_FOLDER / f"rank-{rank:05d}.txt"
        self._rank, self._limit = rank, limit_seconds
        self._latest = (0, limit_seconds)  # step and seconds; a new one with each sign of life
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._left = threading.Event()

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a", encoding="utf-8")
        self._arm(self._limit)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        with contextlib.suppress(OSError):  # somebody may have tidied up
            if not self._path.stat().st_size:
                self._path.unlink()

    def beat(self, step: int) -> None:
        """The loop is at work; `step` optimizer steps are done."""
        self._latest = (step, self._limit)

    def allow(self, seconds: float) -> None:
        """Until the next beat it may take so long from now, where that is more than the limit."""
        self._latest = (self._latest[0], max(self._limit, seconds))

    def _watch(self) -> None:
        tick = min(1.0, self._limit / 10)
        seen, idle, before = self._latest, 0.0, time.monotonic()
        while not self._left.wait(tick):
            now = time.monotonic()
            # A tick that took much longer means that the whole process was stopped.
            idle += min(now - before, 5 * tick)
            before = now
            if self._latest is not seen:
                seen, idle = self._latest, 0.0
            step, allowed = seen
            if idle > allowed:
                self._end(step, idle)
            self._arm(allowed)

    def _arm(self, allowed: float) -> None:
        """Put the last resort off."""
        later = 2 * allowed + GRACE_SECONDS
        faulthandler.dump_traceback_later(later, exit=True, file=self._file)

    def _end(self, step: int, idle: float) -> None:
        # The file system may be what hangs: writing must not keep the process from ending.
        threading.Thread(target=self._dump, args=(step, idle), daemon=True).start()
        time.sleep(GRACE_SECONDS)
        os._exit(os.EX_TEMPFAIL)

    def _dump(self, step: int, idle: float) -> None:
        what = (
            f"rank {self._rank} on {socket.gethostname()}, process {os.getpid()}: nothing for "
            f"{idle:.0f} s after step {step}"
        )
        print(
            f"error: {what}; its stacks are in {self._path}; ending, to be started again",
            file=sys.stderr,
            flush=True,
        )
        self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S %z')} {what}\n")
        self._file.flush()
        faulthandler.dump_traceback(self._file, all_threads=True)
        os.fsync(self._file.fileno())


class Heartbeat:
    """`run_dir/heartbeat.json`: for people and programs that look at a run from outside."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / HEARTBEAT_FILE
        self._due = time.monotonic()

    def beat(self, step: int) -> None:
        """`step` optimizer steps are done; the first rank alone calls it, at every step.

        It writes at most every 10 seconds; a disk that is full does not stop the run.
        """
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _BEAT_SECONDS
        entries = {
            "step": step,
            "unix_seconds": time.time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        try:
            replace_file(self._path, json.dumps(entries) + "\n", flush=False)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)

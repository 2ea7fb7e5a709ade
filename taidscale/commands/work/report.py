"""What `taidscale report` does: it reads runs, draws the page and prints a table of them."""

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from taidscale.report.history import RunHistory, RunReader, run_names
from taidscale.report.tables import summary
from taidscale.report.writing import PAGE, write_report

READING_BAR_BYTES = 20_000_000


def report(options: Namespace) -> None:
    """Write the page, once or until the runs have ended.

    Raises:
        ValueError: for what the user can mend.
    """
    folders = [folder.absolute().resolve() for folder in options.runs]
    readers = [
        RunReader(folder, name) for folder, name in zip(folders, run_names(folders), strict=True)
    ]
    out = (options.out or folders[0] / "report").absolute()
    open_folder(out, PAGE)
    while True:
        began = time.monotonic()
        runs = read(readers)
        ended = all(run.ended for run in runs)
        follows = options.follow is not None and not ended
        empty = [run for run in runs if not run.num_steps]
        if empty and not follows:
            raise ValueError(
                f"{empty[0].folder} has no step in metrics.jsonl yet; wait for the first one, or "
                "let --follow wait"
            )
        if empty:
            print(f"waiting for the first step of {empty[0].name}", flush=True)
        else:
            write(runs, out, options, follows)
        if not follows:
            return
        time.sleep(max(1.0, options.follow - (time.monotonic() - began)))


def read(readers: Sequence[RunReader]) -> list[RunHistory]:
    """Every run as it is now; with a bar where that takes long."""
    total = sum(reader.num_new_bytes for reader in readers)
    with tqdm(
        total=total,
        unit="B",
        unit_scale=True,
        desc="reading",
        leave=False,
        disable=total < READING_BAR_BYTES,
    ) as bar:
        return [reader.read(bar.update) for reader in readers]


def write(runs: list[RunHistory], out: Path, options: Namespace, follows: bool) -> None:
    """The files, and what is printed."""
    print_table([summary(run, time.time()) for run in runs])
    try:
        page, *pictures = write_report(
            runs,
            out,
            peak_tflops=options.peak_tflops,
            reload_seconds=options.follow if follows else None,
            progress=lambda panels: tqdm(
                panels, desc="drawing", leave=False, disable=not sys.stderr.isatty()
            ),
        )
    except OSError as error:
        raise ValueError(f"cannot write to {out}: {error.strerror or error}") from None
    size = page.stat().st_size / 1e6
    print(f"{page} ({size:.1f} MB), and {len(pictures)} pictures beside it", flush=True)


def open_folder(out: Path, page: str) -> None:
    """Make it, and see that it can be written to.

    Raises:
        ValueError: if not.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f"{page}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write to {out}: {error.strerror}; choose another --out") from None


def print_table(rows: list[dict[str, str]]) -> None:
    """The names to the left, the rest to the right."""
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    for row in ({name: name for name in rows[0]}, *rows):
        first, *others = (row[name].rjust(width) for name, width in widths.items())
        print("  ".join([first.strip().ljust(widths["run"]), *others]))

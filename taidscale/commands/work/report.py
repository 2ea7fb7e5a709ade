"""Show how runs go: one page that needs nothing beside it, and pictures.

python tools/report.py RUN_DIR... [--out FOLDER] [--follow [SECONDS]]

Several runs are laid over each other. The page opens from disk, and can be sent as it is.
--follow writes it again and again until the runs have ended.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taidscale.report.history import RunHistory, RunReader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a bare clone

FOLLOW_SECONDS = 30.0
READING_BAR_BYTES = 20_000_000


def parse_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="folder of a run")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where report.html and the PNGs go; default: `report` in the first run's folder",
    )
    parser.add_argument(
        "--follow",
        nargs="?",
        type=float,
        const=FOLLOW_SECONDS,
        metavar="SECONDS",
        help=f"write again so often, until the runs have ended; default: {FOLLOW_SECONDS:g}",
    )
    parser.add_argument(
        "--peak-tflops",
        type=float,
        metavar="X",
        help="of one GPU, for the MFU; default: dense bf16 of the GPU by its name",
    )
    return parser.parse_args()


def report(options: argparse.Namespace) -> None:
    """Write the page, once or until the runs have ended.

    Raises:
        ValueError: for what the user can mend.
    """
    for name in ("follow", "peak_tflops"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} must be more than 0 (got {value:g})")
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise ValueError("drawing needs matplotlib; install it: pip install matplotlib")
    from taidscale.report.history import RunReader, run_names
    from taidscale.report.writing import PAGE

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


def read(readers: "Sequence[RunReader]") -> "list[RunHistory]":
    """Every run as it is now; with a bar where that takes long."""
    from tqdm import tqdm

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


def write(runs: "list[RunHistory]", out: Path, options: argparse.Namespace, follows: bool) -> None:
    """The files, and what is printed."""
    from tqdm import tqdm

    from taidscale.report.tables import summary
    from taidscale.report.writing import write_report

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


def main() -> int:
    """Run; what is wrong is one line on stderr, with status 2."""
    try:
        report(parse_arguments())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the page stays as it is")
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())

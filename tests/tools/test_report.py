"""The page about runs: from a real pair of runs, read as people read it, in a browser too."""

import html
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from taidscale.report.history import RunReader
from taidscale.report.tables import summary
from taidscale.report.writing import arrange
from taidscale.run.status import RunStatus
from tests.ranks import run_on_ranks
from tests.runs import make_run
from tests.tools.commands import expect_error, expect_success, start

STEPS, LONG = 12, 20_000
BROWSER = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
]
needs_browser = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of real runs: TAID, and the same changed to forward KL when it was resumed."""
    folder = tmp_path_factory.mktemp("pair")
    config = make_run(folder, total_steps=STEPS, checkpoint={"every_steps": 4})
    taid, forward = folder / "taid", folder / "forward-kl"
    held_out = str(folder / "held-out")
    shared = f"evaluation={{data: {{one: {held_out}, two: {held_out}}}, every_steps: 4}}"
    train(config, shared, f"run_dir={taid}")
    shutil.copytree(taid, forward)
    shutil.rmtree(forward / "checkpoints" / f"step-{STEPS:08d}")  # as if killed before it
    train(config, shared, "loss={objective: forward_kl}", f"run_dir={forward}")
    return taid, forward


def train(config: Path, *overrides: str) -> None:
    run_on_ranks(1, "tests.runs", "train_quietly", {"arguments": [str(config), *overrides]})


@pytest.fixture(scope="module")
def both(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The page about both of them, and what was printed."""
    out = tmp_path_factory.mktemp("report")
    arguments = [*map(str, pair), "--out", str(out / "compared")]
    printed = expect_success(start("report.py", *arguments, folder=out, without_torch=True))
    return out / "compared" / "report.html", printed


def copy_of(run: Path, folder: Path) -> Path:
    ignored = shutil.ignore_patterns("checkpoints", "student", "report")
    return Path(shutil.copytree(run, folder, ignore=ignored))


# --- files ----------------------------------------------------------------------------


def test_printed(both: tuple[Path, str], pair: tuple[Path, Path]) -> None:
    page, printed = both
    head, taid, forward, written = printed.splitlines()
    assert re.split(r"  +", head)[1:] == ["steps", "tokens", "loss", "KL", "t", "tokens/s", "state"]
    for line, run in ((taid, pair[0]), (forward, pair[1])):
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        cells = re.split(r"  +", line)
        assert cells[:2] == [run.name, f"{STEPS} of {STEPS}"]
        assert cells[3:6] == [f"{last[n]:.4f}" for n in ("loss", "teacher_kl", "t")]
        assert cells[-1] == "finished"
    pictures = sorted(page.parent.glob("*.png"))
    assert written.startswith(f"{page} (")
    assert written.endswith(f"and {len(pictures)} pictures beside it")
    assert {p.name for p in page.parent.iterdir()} == {page.name, *(p.name for p in pictures)}


def test_everything_is_drawn(both: tuple[Path, str]) -> None:
    names = "loss kl t next-token-loss entropy gradient-norm learning-rate tokens-per-second"
    wanted = {*names.split(), "flops", "memory", "step-time-1", "step-time-2"}
    measures = ("teacher-kl", "next-token-loss", "top1-agreement")
    wanted |= {f"held-out-{data}-{measure}" for data in ("one", "two") for measure in measures}
    assert {picture.stem for picture in both[0].parent.glob("*.png")} == wanted
    taid, forward = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
    # The curves of held-out data lie on each other: the one drawn last is seen.
    for name, colour in (
        ("loss", taid),
        ("loss", forward),
        ("held-out-one-teacher-kl", forward),
    ):
        pixels = image.imread(both[0].with_name(f"{name}.png"))[..., :3]
        above_marks_and_legend = pixels[: int(0.7 * len(pixels))] * 255
        is_curve = np.abs(above_marks_and_legend - colour).max(axis=-1) < 2
        assert is_curve.any(axis=0).sum() > 100  # columns of pixels


def test_the_page_needs_nothing_beside_it(both: tuple[Path, str]) -> None:
    text = both[0].read_text()
    assert len(text) < 3e6
    for reference in re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)|@import', text):
        assert "".join(reference).startswith("data:"), reference
    assert "http-equiv" not in text


def test_the_page_says_what_happened_and_what_differs(
    both: tuple[Path, str], pair: tuple[Path, Path]
) -> None:
    text = both[0].read_text()
    cells = [
        re.findall(r"<td[^>]*>(?:<span[^>]*></span>)?([^<]*)</td>", row)
        for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    ]
    events = [(row[1], row[2], row[3].strip()) for row in cells if row and "UTC" in row[0]]
    changed = ("forward-kl", "8", "★ changed")
    assert changed in events
    events = [event for event in events if event != changed]
    assert events == [
        ("taid", "0", "start"),
        ("forward-kl", "0", "start"),
        ("taid", str(STEPS), "■ finished"),
        ("forward-kl", str(STEPS), "■ finished"),
        ("forward-kl", "8", "▸ start"),
        ("forward-kl", str(STEPS), "■ finished"),
    ]
    rows = dict(re.findall(r"<tr><th>([^<]*)</th>(.*?)</tr>", text))
    assert ">taid<" in rows["loss.objective"]
    assert ">forward_kl<" in rows["loss.objective"]
    assert "seed" not in rows
    assert rows["ran on"] == "<td>1 × CPU</td>" * 2
    evaluations = [json.loads(line) for line in (pair[0] / "evaluations.jsonl").open()]
    best = min((e for e in evaluations if e["data"] == "two"), key=lambda e: e["teacher_kl"])
    assert f"{best['teacher_kl']:.4f} (step {best['step']})" in rows["two: KL to the teacher"]


def test_a_long_run_in_trouble(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Skipped and rolled back steps, a half-written line, and a name that is no HTML."""
    run = copy_of(pair[0], tmp_path / "<b>run & co")
    entry = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    entries = [{**entry, "step": n, "loss": 2 + n % 17 / 20} for n in range(1, LONG + 1)]
    entries[5] |= {"loss": float("nan"), "teacher_kl": float("nan"), "gradient_norm": float("inf")}
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (run / "metrics.jsonl").write_text(text + '{"step": 20001, "lo')
    undone = "".join(json.dumps(entry) + "\n" for entry in entries[3:9] * 2)
    (run / "undone.jsonl").write_text(undone)
    with (run / "events.jsonl").open("a") as file:
        for kind in ("skipped", "spike", "rolled back", "slow rank", "something new"):
            said = f"{kind} </td><script>alert(1)</script>"
            file.write(json.dumps({"event": kind, "step": 6, "message": said}) + "\n")
        file.write('{"event": "skip')
    printed = expect_success(start("report.py", str(run), folder=tmp_path))
    assert f"{LONG:,} of {STEPS}" in printed
    page = (run / "report" / "report.html").read_text()
    assert len(page) < 3e6
    assert "<script>alert" not in page
    assert "<b>run" not in page
    for mark in ("✕", "▴", "◂", "●", "✚"):
        assert mark in page


def test_without_teacher_evaluation_events_or_settings(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    entries = [json.loads(line) for line in (pair[1] / "metrics.jsonl").open()]
    alone = [{n: v for n, v in e.items() if "teacher" not in n and "mix" not in n} for e in entries]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in alone))
    run = RunReader(tmp_path, "run").read(lambda _: None)
    assert summary(run, time.time())["state"] == "unknown"
    ((heading, panels),) = arrange([run], None)
    assert heading == "Training"
    names = {panel.key for panel in panels}
    assert {"loss", "next-token-loss", "step-time-1"} <= names
    assert not names & {"kl", "t", "flops"}


# --- following ------------------------------------------------------------------------


def test_follow_until_the_run_has_ended(pair: tuple[Path, Path], tmp_path: Path) -> None:
    run = copy_of(pair[0], tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    for name in ("metrics", "evaluations"):
        (run / f"{name}.jsonl").unlink()
    RunStatus("running", "started after step 0", 0).write(run)
    page = run / "report" / "report.html"
    tool = start("report.py", str(run), "--follow", "1", folder=tmp_path)

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 600
        while not page.exists() or text not in page.read_text():
            assert tool.poll() is None, tool.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    (run / "metrics.jsonl").write_text("".join(lines[:5]) + lines[5][:20])
    wait_for(f"5 of {STEPS}")
    assert 'http-equiv="refresh" content="1"' in page.read_text()
    with (run / "metrics.jsonl").open("a") as file:
        file.write(lines[5][20:] + "".join(lines[6:]))
    wait_for(f"{STEPS} of {STEPS}")
    RunStatus("finished", f"{STEPS} steps", STEPS).write(run)
    printed = expect_success(tool)
    assert "finished" in printed.splitlines()[-2]
    assert "http-equiv" not in page.read_text()
    assert not list(page.parent.glob("*.partial"))


# --- bad input ------------------------------------------------------------------------


def test_what_cannot_be_shown(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(pair[0] / "config.yaml", empty)
    run = str(pair[0])
    for arguments, says in (
        (["missing"], r"missing is no folder; give the run_dir"),
        (["other"], r"other is not a run's folder: it holds neither config.yaml nor"),
        (["empty"], r"empty has no step in metrics.jsonl yet"),
        ([run, run], r"is given twice"),
        ([run, "--out", "file/x"], r"cannot write to .*file/x: Not a directory"),
        ([run, "--peak-tflops", "-1"], r"--peak-tflops must be more than 0 \(got -1\)"),
        ([run, "--follow", "0"], r"--follow must be more than 0"),
    ):
        expect_error(start("report.py", *arguments, folder=tmp_path), says)
    assert not (tmp_path / "empty" / "report" / "report.html").exists()


# --- in a browser ---------------------------------------------------------------------


def look_at(page: str, folder: Path) -> tuple[np.ndarray[Any, Any], list[str], list[str]]:
    """The page in Chromium: its pixels, what its console says, what it asked the network for."""
    assert BROWSER is not None
    shot, log = folder / "shot.png", folder / "net.json"
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder}/profile", f"--log-net-log={log}"]
    command += ["--window-size=1400,2400", f"--screenshot={shot}", page]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    said = [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]
    # What the browser asks for by itself has no origin.
    by_page = re.compile(r'"initiator":"(?:null|file:[^"]*)".*"url":"(http[^"]*)"')
    asked = by_page.findall(log.read_text(errors="replace"))
    return image.imread(shot)[..., :3], said, asked


def a_browser_would_tell(text: str, folder: Path) -> None:
    """What the test below relies on: errors and requests of a page are seen."""
    folder.mkdir()
    page = folder / "page.html"
    wrong = '<img src="http://127.0.0.1:9/x.png"><script>missing()</script></body>'
    page.write_text(text.replace("</body>", wrong))
    _, said, asked = look_at(f"file://{page}", folder)
    assert any("missing is not defined" in line for line in said)
    assert "http://127.0.0.1:9/x.png" in asked


@needs_browser
def test_in_a_browser(both: tuple[Path, str], tmp_path: Path) -> None:
    a_browser_would_tell(both[0].read_text(), tmp_path / "told")
    pixels, said, asked = look_at(f"file://{both[0]}", tmp_path)
    assert said == []
    assert asked == []
    colours = {tuple(colour) for colour in (pixels[::2, ::2].reshape(-1, 3) * 255).astype(int)}
    assert len(colours) > 500
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        rows = np.flatnonzero((np.abs(pixels * 255 - colour).max(axis=-1) < 2).sum(axis=1) > 2)
        assert rows[-1] - rows[0] > 1500  # from the first table down to the last drawing
    (tmp_path / "log").mkdir()
    other, said, _ = look_at(f"file://{both[0]}#logarithmic", tmp_path / "log")
    assert said == []
    assert (other != pixels).mean() > 0.003  # the axes are logarithmic


@needs_browser
def test_a_phone_cuts_nothing(both: tuple[Path, str], tmp_path: Path) -> None:
    """In a frame, since a window of Chromium has 500 pixels at least."""
    page = tmp_path / "page.html"
    width = "console.log(this.contentDocument.documentElement.scrollWidth)"
    inner = html.escape(both[0].read_text())
    page.write_text(f'<iframe width=390 height=2000 onload="{width}" srcdoc="{inner}"></iframe>')
    _, said, _ = look_at(f"file://{page}", tmp_path)
    assert re.findall(r'"(\d+)"', "".join(said)) == ["390"]

"""What people see of a run: the console, `metrics.jsonl`, Weights & Biases, TensorBoard."""

import json
import math
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

import wandb
from tqdm import tqdm

from taidscale.config.load import flat_settings
from taidscale.config.schema import RunConfig
from taidscale.file_names import EVALUATIONS_FILE, EVENTS_FILE, METRICS_FILE, UNDONE_FILE
from taidscale.metrics.run_files import LineFile, drop_steps_after
from taidscale.metrics.tensorboard import TensorBoard
from taidscale.metrics.wandb_id import wandb_id

PLAIN_LINE_SECONDS = 10.0
"""Least time between two progress lines where the output is a file, not a terminal."""


class RunLog:
    """Writes each step's numbers to every sink, on the first rank alone."""

    def __init__(
        self,
        config: RunConfig,
        *,
        first_step: int,
        enabled: bool,
        rolled_back_at: float | None = None,
    ) -> None:
        """Open the sinks.

        Args:
            config: of the run.
            first_step: steps done before; later lines, which a crash left behind the
                checkpoint that the run continues from, are removed.
            enabled: whether this rank writes.
            rolled_back_at: seconds since 1970 of the last roll-back to `first_step`; later lines
                from before it are of undone steps, if a kill left them here.
        """
        self._enabled = enabled
        if not enabled:
            return
        self._run_dir = config.run_dir
        self._console = _Console(first_step, config.total_steps)
        last_step = first_step or -1  # a run that starts anew also evaluates its step 0 again
        for name in (EVENTS_FILE, UNDONE_FILE):
            drop_steps_after(config.run_dir / name, math.inf)
        self._drop_steps_after(last_step, rolled_back_at)
        self._open()
        self._wandb = _start_wandb(config)
        self._offline = config.wandb.mode == "offline"
        self._tensorboard = TensorBoard(config, last_step) if config.tensorboard.enabled else None

    def step(self, metrics: dict[str, float]) -> None:
        """One optimizer step; `metrics["step"]` counts from 1."""
        if not self._enabled:
            return
        self._write(METRICS_FILE, metrics)
        self._wandb.log(metrics)
        if self._tensorboard:
            self._tensorboard.write(_grouped("train", metrics), int(metrics["step"]))
        self._console.step(metrics)

    def evaluation(self, metrics: dict[str, float], data: str) -> None:
        """One evaluation on the held-out set `data`, after `metrics["step"]` optimizer steps."""
        if not self._enabled:
            return
        self._write(EVALUATIONS_FILE, {**metrics, "data": data})
        figures = _grouped(f"evaluation/{data}", metrics)
        self._wandb.log({**figures, "step": metrics["step"]})
        if self._tensorboard:
            self._tensorboard.write(figures, int(metrics["step"]))
        self._console.say(
            f"{data} after step {int(metrics['step'])}: "
            + ", ".join(
                f"{name} {metrics[name]:.4f}"
                for name in (
                    "teacher_kl",
                    "next_token_loss",
                    "teacher_next_token_loss",
                    "top1_agreement",
                )
                if name in metrics
            )
        )

    def event(
        self, kind: str, message: str, step: int, facts: Mapping[str, float | str] | None = None
    ) -> None:
        """Something worth knowing that happened after `step` optimizer steps.

        Args:
            kind: one or two words.
            message: for people.
            step: when it happened.
            facts: for programs, to be kept beside the message.
        """
        if not self._enabled:
            return
        self._write(EVENTS_FILE, {"event": kind, "step": step, "message": message, **(facts or {})})
        self._console.say(message)

    def roll_back(self, step: int) -> None:
        """The steps after `step` are undone: their lines go to `undone.jsonl`."""
        if not self._enabled:
            return
        self._close()
        self._drop_steps_after(step, math.inf)
        self._open()
        if self._tensorboard:
            self._tensorboard.drop_steps_after(step)

    def close(self) -> None:
        """Flush and close every sink."""
        if not self._enabled:
            return
        self._console.close()
        self._close()
        self._wandb.finish()
        if self._offline:
            run_dir = shlex.quote(str(self._run_dir))
            self._console.say(f"W&B, all starts of the run: cd {run_dir} && wandb sync --yes")
        if self._tensorboard:
            self._tensorboard.close()

    def _open(self) -> None:
        names = (METRICS_FILE, EVALUATIONS_FILE, EVENTS_FILE)
        self._files = {name: LineFile(self._run_dir / name) for name in names}

    def _close(self) -> None:
        for file in self._files.values():
            if said := file.close():
                self._console.say(said)

    def _drop_steps_after(self, step: int, rolled_back_at: float | None) -> None:
        undone_before = -math.inf if rolled_back_at is None else rolled_back_at
        for name in (METRICS_FILE, EVALUATIONS_FILE):
            drop_steps_after(self._run_dir / name, step, undone_before)

    def _write(self, name: str, metrics: Mapping[str, float | str]) -> None:
        said = self._files[name].write(json.dumps({**metrics, "unix_seconds": time.time()}))
        if said:
            self._console.say(said)


class _Console:
    """A progress bar that rewrites its line in a terminal.

    Where the output is a file, it prints a line now and then.
    """

    def __init__(self, first_step: int, total_steps: int) -> None:
        self._terminal = sys.stdout.isatty()
        self._first, self._total = first_step, total_steps
        self._started = time.monotonic()
        self._last_line = 0.0

    def step(self, metrics: dict[str, float]) -> None:
        done = int(metrics["step"])
        now = time.monotonic()
        due = self._terminal or done == self._total or done <= self._first + 3
        if not due and now - self._last_line < PLAIN_LINE_SECONDS:
            return
        self._last_line = now
        width = shutil.get_terminal_size().columns - 1 if self._terminal else None
        line = _progress(done, self._total, now - self._started, self._first, metrics, width)
        print(f"\r\033[K{line}" if self._terminal else line, end="" if self._terminal else "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        print(f"\r\033[K{text}" if self._terminal else text, flush=True)

    def close(self) -> None:
        if self._terminal:
            print(flush=True)


def _progress(
    done: int, total: int, seconds: float, first: int, metrics: dict[str, float], width: int | None
) -> str:
    """The line about one step, with as many figures, and as much of the bar, as fit.

    Args:
        done: optimizer steps.
        total: of the run.
        seconds: since this start began.
        first: steps done before it.
        metrics: of the step.
        width: characters at most; None for no bound.
    """
    figures, bar = _figures(metrics), 16
    while True:
        line = tqdm.format_meter(
            done,
            total,
            seconds,
            initial=first,
            bar_format=f"{{l_bar}}{{bar:{bar}}}| {{n_fmt}}/{{total_fmt}} "
            "[{elapsed}<{remaining}]{postfix}",
            postfix=" ".join(figures),
        )
        if width is None or len(line) <= width:
            return line
        if bar > 1:
            bar //= 2
        elif figures:
            figures.pop()
        else:
            return line[:width]  # a longer one would fill the window line by line


def _figures(metrics: dict[str, float]) -> list[str]:
    """The most interesting one first."""
    shown = [f"loss {metrics['loss']:.4f}"]
    if "teacher_kl" in metrics:
        shown += [f"kl {metrics['teacher_kl']:.4f}", f"t {metrics['t']:.4f}"]
    return [
        *shown,
        f"lr {metrics['learning_rate']:.2e}",
        f"grad {metrics['gradient_norm']:.2f}",
        f"{metrics['tokens_per_second']:,.0f} tok/s",
    ]


def _grouped(group: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{group}/{name}": value for name, value in metrics.items()}


def _start_wandb(config: RunConfig) -> Any:
    settings = config.wandb
    try:
        run = wandb.init(
            mode=settings.mode,
            project=settings.project,
            name=settings.name or config.run_dir.name,
            id=wandb_id(config.run_dir) if settings.mode != "disabled" else None,
            resume="allow",
            dir=config.run_dir,
            config=flat_settings(config),
            settings=wandb.Settings(silent=True, console="off"),
        )
        run.define_metric("*", step_metric="step")  # its own step cannot go back
        return run
    except wandb.errors.Error as error:
        raise ValueError(
            f"wandb.mode: {settings.mode} did not start ({error}); log in, or set offline"
        ) from None

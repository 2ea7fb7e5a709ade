"""Steps whose loss or gradient was not finite: skipped, counted, explained."""

import json
import logging
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from taidscale.config.health import HealthConfig
from taidscale.file_names import SKIPPED_FILE
from taidscale.parallel.grid import AgreedError, Grid

log = logging.getLogger(__name__)


Kind = Literal["teacher", "student", "loss", "gradient"]
"""What was not finite: hidden states of the teacher, or of a layer of the student; the loss; a
parameter's gradient. Data flow in this order.
"""
_WHAT: dict[Kind, str] = {
    "teacher": "the output of the teacher",
    "student": "the output of the student's",
    "loss": "the loss",
    "gradient": "the gradient of",
}


@dataclass(frozen=True)
class Sign:
    """The first thing in a micro-batch that one rank saw not to be finite."""

    micro_batch: int
    """Its number in the step, from 0."""
    kind: Kind
    place: str = ""
    """The layer or the parameter."""

    def __str__(self) -> str:
        return f"{_WHAT[self.kind]} {self.place}".strip()


@dataclass(frozen=True)
class Finding:
    """A sign, and whose it is: one line of `skipped_samples.jsonl`, and more."""

    rank: int
    group: int
    """Its tp_group."""
    host: str
    sign: Sign
    keys: list[list[int]] | None
    """Stream, shard and place of each sample of the micro-batch."""


class SkippedSteps:
    """Counts the steps that left the weights as they were, and says why."""

    def __init__(self, config: HealthConfig, run_dir: Path, grid: Grid) -> None:
        self._most_in_a_row = config.max_skipped_in_a_row
        self._file = run_dir / SKIPPED_FILE
        self._grid = grid
        self._in_a_row = 0
        self.total = 0
        """Since the run began."""

    def end_row(self) -> None:
        """A step was finite."""
        self._in_a_row = 0

    def add(
        self,
        step: int,
        loss: float,
        gradient_norm: float,
        signs: list[Sign],
        keys: list[torch.Tensor | None],
    ) -> str:
        """Count a step that was not finite. All ranks call it together.

        Args:
            step: its number, from 1.
            loss: the mean over all ranks.
            gradient_norm: of all ranks.
            signs: what this rank saw.
            keys: of each micro-batch of this rank, [B, 3] int64; see `MicroBatch`.

        Returns:
            What happened, and where it began; the same text on every rank.

        Raises:
            AgreedError: with that text, if so many steps in a row are one too many.

        Cost: one all-gather of the ranks' signs.
        """
        self.total += 1
        self._in_a_row += 1
        host = socket.gethostname()
        rank, group = self._grid.rank, self._grid.data.index
        own = [Finding(rank, group, host, sign, _rows(keys, sign)) for sign in signs]
        everybody = [finding for part in self._grid.gather(own) for finding in part]
        origins = origins_of(everybody)
        text = (
            f"step {step} was skipped, the weights are as before: loss {loss:.6g}, gradient norm "
            f"{gradient_norm:.6g}. {explain(origins, self._grid.world_size)}"
        )
        if any(finding.keys for finding in origins):
            text += f"; the samples are in {self._file}"
            if self._grid.is_first:
                self._write(step, origins)
        if self._in_a_row >= self._most_in_a_row:
            raise AgreedError(
                f"{text}. That makes {self._in_a_row} in a row "
                "(health.max_skipped_in_a_row): a lower learning_rate.peak or "
                "optimizer.gradient_clipping, other data, or, where it is always the same rank, a "
                "run without its node may help"
            )
        return text

    def to_json(self) -> dict[str, int]:
        """For a checkpoint."""
        return {"total": self.total, "in_a_row": self._in_a_row}

    def load_json(self, entries: dict[str, int]) -> None:
        """Continue from what `to_json` gave."""
        self.total, self._in_a_row = entries["total"], entries["in_a_row"]

    def _write(self, step: int, origins: list[Finding]) -> None:
        lines = [json.dumps(_line(step, finding)) + "\n" for finding in origins]
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:  # a full disk: the next checkpoint stops the run, on all ranks
            log.warning("%s cannot be written: %s", self._file, error)


def origins_of(findings: list[Finding]) -> list[Finding]:
    """Those of the ranks where it began, by micro-batch and rank.

    What is not finite in one rank's tokens is so in the gradients of its whole tp_group, which
    shares the loss: a rank that saw nothing before the gradients is innocent where another one
    of its group did.
    """
    began = {
        (finding.sign.micro_batch, finding.group)
        for finding in findings
        if finding.sign.kind != "gradient"
    }
    return sorted(
        (
            finding
            for finding in findings
            if finding.sign.kind != "gradient"
            or (finding.sign.micro_batch, finding.group) not in began
        ),
        key=lambda finding: (finding.sign.micro_batch, finding.rank),
    )


def explain(origins: list[Finding], world_size: int) -> str:
    """Which rank, which micro-batch, which layer."""
    if not origins:
        return (
            "No rank saw anything in its own tokens that was not finite: it came about in adding "
            "up gradients, over micro-batches or between ranks"
        )
    first = origins[0]
    text = (
        f"It began on rank {first.rank} ({first.host}) in micro-batch "
        f"{first.sign.micro_batch} with {first.sign}"
    )
    ranks = {finding.rank for finding in origins}
    if len(ranks) == world_size > 1:
        text += f", and so on all {world_size} ranks"
    elif len(ranks) > 1:
        text += f"; also on {_named(sorted(ranks - {first.rank}))}"
    return text


def _named(ranks: list[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:8])
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{more}"


def _rows(keys: list[torch.Tensor | None], sign: Sign) -> list[list[int]] | None:
    own = keys[sign.micro_batch]
    return None if own is None else [row for row in own.tolist() if row[0] >= 0]


def _line(step: int, finding: Finding) -> dict[str, Any]:
    return {
        "step": step,
        "rank": finding.rank,
        "host": finding.host,
        **asdict(finding.sign),
        "keys": finding.keys,
        "unix_seconds": time.time(),
    }

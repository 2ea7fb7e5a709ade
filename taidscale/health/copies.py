"""Are the copies of weights that several ranks hold still equal?

A bit that flips in memory or on a link, or a chip that miscalculates, spoils a run without a word.
What exists once only, ZeRO's shards of masters and moments, cannot be checked so.
"""

import hashlib
import json
import socket
from collections import Counter
from dataclasses import dataclass

from taidscale.parallel.grid import AgreedError, Grid

Hashes = dict[str, int]
"""Of tensors, by name; see `WeightHasher`."""


@dataclass(frozen=True)
class _Held:
    """What one rank holds."""

    host: str
    teacher: Hashes
    teacher_before: Hashes
    student: Hashes


class CopyCheck:
    """Compares the ranks' hashes, and the teacher's with those at the start: it never changes."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._teacher_before: Hashes | None = None
        self._last_good: int | None = None

    def check(self, step: int, teacher: Hashes, student: Hashes) -> None:
        """Compare. All ranks call it together; the first time before the first step.

        Args:
            step: optimizer steps done.
            teacher: of this rank's share of the teacher; ranks with the same place in their
                tp_group hold the same.
            student: of those parameters that every rank holds whole.

        Raises:
            AgreedError: they differ; it names rank, host and parameter where a majority, or the
                teacher's earlier hashes, tell which one is wrong.

        Cost: one all-gather of two short strings a rank.
        """
        if self._teacher_before is None:
            self._teacher_before = teacher
        summary = (
            self._grid.tp_rank,
            _digest(teacher),
            _digest(student),
            teacher == self._teacher_before,
        )
        places, teachers, students, unchanged = zip(*self._grid.gather(summary), strict=True)
        one_of_each = len(set(zip(places, teachers, strict=True))) == self._grid.tp_size
        if len(set(students)) == 1 and one_of_each and all(unchanged):
            self._last_good = step
            return
        held = _Held(socket.gethostname(), teacher, self._teacher_before, student)
        raise AgreedError(self._explain(step, self._grid.gather(held)))

    def _explain(self, step: int, ranks: list[_Held]) -> str:
        tp_size = self._grid.tp_size
        found: list[tuple[str, list[int], bool]] = []
        for name in ranks[0].student:
            odd, sure = _odd_ones({rank: held.student.get(name) for rank, held in enumerate(ranks)})
            found.append((f"the student's {name}", odd, sure))
        for place in range(tp_size):
            holders = range(place, len(ranks), tp_size)
            for name in ranks[place].teacher:
                changed = [
                    rank
                    for rank in holders
                    if ranks[rank].teacher[name] != ranks[rank].teacher_before[name]
                ]
                odd, sure = _odd_ones({rank: ranks[rank].teacher[name] for rank in holders})
                found.append((f"the teacher's {name}", changed or odd, bool(changed) or sure))
        found = [(what, odd, sure) for what, odd, sure in found if odd]
        found.sort(key=lambda entry: not entry[2])
        what, odd, sure = found[0]
        others = len({name for name, *_ in found} - {what})
        named = ", ".join(f"{rank} ({ranks[rank].host})" for rank in odd[:8])
        text = (
            f"{what} is corrupt on rank {named}"
            if sure
            else f"{what} differs between ranks, and no majority tells which are right: {named}"
        )
        return f"step {step}: {text}{f', and {others} more tensors' if others else ''}. " + (
            "So it was before the first step: something read the weights wrongly"
            if self._last_good is None
            else "Its memory, chip or link is suspect: start again without that node. All copies "
            f"were equal after step {self._last_good}; delete later checkpoints first"
        )


def _digest(hashes: Hashes) -> str:
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def _odd_ones(hashes: dict[int, int | None]) -> tuple[list[int], bool]:
    """Ranks whose hash is not that of the majority, and whether there is a majority at all."""
    ((common, count), *_) = Counter(hashes.values()).most_common()
    if 2 * count <= len(hashes):
        return list(hashes), False
    return [rank for rank, value in hashes.items() if value != common], True

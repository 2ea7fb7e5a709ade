"""What, besides its entries, decides which ids a tokenizer gives a text."""

from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from typing import Any

Merge = tuple[str, str]


@dataclass(frozen=True)
class Segmentation:
    """How one tokenizer makes pieces of a text."""

    kind: str
    """Of its model, such as BPE or Unigram."""
    merges: list[Merge] = field(default_factory=list)
    """Of BPE, the first to apply first."""
    scores: dict[int, float] = field(default_factory=dict)
    """By id, of kinds that choose pieces by them: Unigram and SentencePiece's own."""
    settings: dict[str, Any] = field(default_factory=dict)
    """All else that is written down, such as the normalizer and the pre-tokenizer, by name."""

    def difference(self, other: "Segmentation", ids: set[int]) -> str | None:
        """The first merge or score that differs; None where none does, or kinds are not alike.

        Merges in a row that give the same piece count in any order: SentencePiece ranks pieces,
        and each version of the converters writes the ways to one piece in an order of its own.

        Args:
            other: of a tokenizer with the same entries, called "there".
            ids: whose scores count.
        """
        if self.kind != other.kind:
            return None
        if self.merges != other.merges:
            pairs = zip_longest(_ranked(other.merges), _ranked(self.merges))
            for number, (there, here) in enumerate(pairs, 1):
                if here != there:
                    return f"merge {number:,} is {_named(there)} there, {_named(here)} here"
        for index in sorted(ids & self.scores.keys() & other.scores.keys()):
            there, here = other.scores[index], self.scores[index]
            if here != there:
                return f"the score of id {index} is {there:.7g} there, {here:.7g} here"
        return None


def _ranked(merges: list[Merge]) -> list[Merge]:
    return [merge for _, ways in groupby(merges, "".join) for merge in sorted(ways)]


def _named(merge: Merge | None) -> str:
    return "absent" if merge is None else f"{merge[0]!r} + {merge[1]!r}"

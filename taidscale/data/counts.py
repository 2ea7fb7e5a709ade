"""What was read, what was left out, and why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

MAX_PLACES = 20
MAX_EXAMPLE = 20  # characters


@dataclass(frozen=True)
class Problem:
    """A record, or the rest of a file, that cannot be used."""

    reason: str
    """A few words, the same for all of its kind."""
    place: str
    """File and line, or dataset and row."""
    detail: str
    """What is wrong there and what to do about it."""

    def __str__(self) -> str:
        return f"{self.place}: {self.detail}"


OnError = Callable[[Problem], None]
"""What to do about a problem: `stop`, or `Counts.skip` to go on with the next record."""


def refuse(problem: Problem) -> None:
    """Refuse to go on, where nothing can be passed over.

    Raises:
        ValueError: Always.
    """
    raise ValueError(str(problem))


def stop(problem: Problem) -> None:
    """Refuse to go on, and say how one could.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{problem}; or pass over such records, counted, with --on-error skip")


class Counts(BaseModel):
    """Numbers of some blocks; those of all blocks are their sum."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    documents: NonNegativeInt = 0
    """Documents encoded."""
    characters: NonNegativeInt = 0
    """Of these documents; a chat's as its template renders it."""
    tokens: NonNegativeInt = 0
    """Of these documents, without separators."""
    raw_bytes: NonNegativeInt = 0
    """Uncompressed bytes of the blocks, whatever became of them."""
    empty: NonNegativeInt = 0
    """Documents without any text, passed over."""
    unknown_tokens: NonNegativeInt = 0
    """Of these tokens, those for text that the tokenizer does not know."""
    unknown_characters: NonNegativeInt = 0
    """Of the text that they stand for, or that became no token at all."""
    unknown_examples: list[str] = Field(default_factory=list, max_length=MAX_PLACES)
    """Of such text, one of a document: `a.jsonl, line 7: '吾輩は'`."""
    skipped: dict[str, NonNegativeInt] = Field(default_factory=dict)
    """Records that could not be used, by reason; the lost rest of a damaged file counts 1."""
    filtered: dict[str, NonNegativeInt] = Field(default_factory=dict)
    """Documents that a length filter of the settings took out, by its name."""
    places: list[str] = Field(default_factory=list, max_length=MAX_PLACES)
    """What was skipped first: `a.jsonl, line 7: broken JSON ...`."""

    def skip(self, problem: Problem) -> None:
        """Count a problem, and keep its place if it is among the first."""
        self.skipped[problem.reason] = self.skipped.get(problem.reason, 0) + 1
        if len(self.places) < MAX_PLACES:
            self.places.append(str(problem))

    @property
    def has_unknown(self) -> bool:
        """Whether unknown text was counted; older preparations did not count it."""
        return "unknown_tokens" in self.model_fields_set

    def add_unknown(self, num_tokens: int, parts: Sequence[str], place: str) -> None:
        """Count what the tokenizer does not know of a document."""
        self.unknown_tokens += num_tokens
        self.unknown_characters += sum(map(len, parts))
        if parts and len(self.unknown_examples) < MAX_PLACES:
            part = parts[0][:MAX_EXAMPLE] + "..." * (len(parts[0]) > MAX_EXAMPLE)
            self.unknown_examples.append(f"{place}: {part!r}")

    def filter(self, name: str) -> None:
        """Count a document that the filter `name` takes out."""
        self.filtered[name] = self.filtered.get(name, 0) + 1

    def __add__(self, other: Self) -> Self:
        """The numbers of both; the places of `self` come first."""
        return type(self)(
            documents=self.documents + other.documents,
            characters=self.characters + other.characters,
            tokens=self.tokens + other.tokens,
            raw_bytes=self.raw_bytes + other.raw_bytes,
            empty=self.empty + other.empty,
            unknown_tokens=self.unknown_tokens + other.unknown_tokens,
            unknown_characters=self.unknown_characters + other.unknown_characters,
            unknown_examples=(self.unknown_examples + other.unknown_examples)[:MAX_PLACES],
            skipped=_sum(self.skipped, other.skipped),
            filtered=_sum(self.filtered, other.filtered),
            places=(self.places + other.places)[:MAX_PLACES],
        )


def _sum(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    names = dict.fromkeys([*first, *second])
    return {name: first.get(name, 0) + second.get(name, 0) for name in names}

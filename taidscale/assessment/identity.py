"""Does a model know who it is?

Lee et al. (arXiv:2501.12619) search for prompts that make a model contradict facts about itself,
and count, of all answers, loosely those that contradict any fact, and strictly those in which it
takes itself for another model, such as Claude or ChatGPT. Here the prompts are a fixed list, so
the rates are lower bounds. Ours are defined so:

- loose: the answer contradicts a fact. By rules: it names another model or maker without denying
  it; what other facts say only a judge can compare.
- strict: the answer contradicts the identity itself. By rules: a sentence in which the model speaks
  of itself, or of who made it, names another model or maker without denying it. Every strict
  contradiction is a loose one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

SHIPPED = Path(__file__).with_name("prompts.yaml")


class Facts(BaseModel):
    """What is true of a model; a YAML file of the user."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field(min_length=1)
    """Of the model."""
    developer: str = Field(min_length=1)
    """Who made it."""
    also_named: list[str] = []
    """Other spellings of the name."""
    may_name: list[str] = []
    """Others whose names are no contradiction, such as the model that it was distilled from."""
    facts: dict[str, str] = {}
    """More for the judge to compare with: country, licence, size."""

    @property
    def text(self) -> str:
        """For the judge."""
        lines = {"name": self.name, "developer": self.developer, **self.facts}
        if self.also_named:
            lines["other names of the same model"] = ", ".join(self.also_named)
        if self.may_name:
            lines["made with the help of"] = ", ".join(self.may_name)
        return "\n".join(f"{key}: {value}" for key, value in lines.items())


class IdentityPrompt(BaseModel):
    """A question about the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    aspect: str
    language: str
    text: str


class ShippedPrompts(BaseModel):
    """What `prompts.yaml` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    identity: list[IdentityPrompt]
    responses: list[str]
    """Requests to compare responses with, where the user has none."""
    others: list[list[str]]
    """Spellings of models and their makers, a family each."""


def read_facts(path: Path) -> Facts:
    """Read a user's file.

    Raises:
        ValueError: It is missing or says something else.
    """
    return Facts(**_read_yaml(path, Facts))


def shipped_prompts() -> ShippedPrompts:
    """Those that come with the package."""
    return ShippedPrompts(**_read_yaml(SHIPPED, ShippedPrompts))


def _read_yaml(path: Path, model: type[BaseModel]) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; write one with {', '.join(model.model_fields)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(
            f"{path}: {place}: {first['msg']}; it has {', '.join(model.model_fields)}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: broken YAML: {' '.join(str(error).split())}") from None
    found: dict[str, Any] = content
    return found


@dataclass(frozen=True)
class Finding:
    """What the rules find in an answer."""

    loose: tuple[str, ...]
    """Others that are named."""
    strict: tuple[str, ...]
    """Others that the model takes itself for, or takes for its maker."""
    names_itself: bool


@dataclass(frozen=True)
class IdentityRules:
    """Names to look for.

    Args:
        facts: Of the model, whose own names are no contradiction.
        others: See `ShippedPrompts`.
    """

    facts: Facts
    others: list[list[str]]

    @cached_property
    def _others(self) -> list[re.Pattern[str]]:
        facts = self.facts
        own = [facts.name, facts.developer, *facts.also_named, *facts.may_name]
        families = [
            family
            for family in self.others
            if not any(_pattern([spelling]).search(name) for spelling in family for name in own)
        ]
        return [_pattern(family) for family in families]

    def find(self, answer: str) -> Finding:
        """Look through an answer."""
        loose, strict = dict[str, None](), dict[str, None]()
        for clause, denied, of_itself in _clauses(answer):
            named = [m[0] for other in self._others for m in other.finditer(clause)]
            if denied or not named:
                continue
            loose |= dict.fromkeys(named)
            if of_itself:
                strict |= dict.fromkeys(named)
        own = _pattern([self.facts.name, *self.facts.also_named])
        return Finding(tuple(loose), tuple(strict), own.search(answer) is not None)


_SENTENCE = re.compile(r"(?<=[.!?])\s+|[。！？\n]+")
_CLAUSE = re.compile(r"[,;:]\s+|\s+(?:but|and)\s+|(?<=なく)、|(?<=が)、")
_DENIAL = re.compile(
    r"\b(?:not|never|neither|nor|unlike|no)\b|n['’]t\b|では?な[いく]|ではあり|じゃな|ません|とは(?:別|違|異|無関係)",
    re.IGNORECASE,
)
_OF_ITSELF = re.compile(
    r"\bI\s+am\b|\bI['’]m\b|\bI\s+was\b|\bme\b|\bmy\b|\bas\s+an?\b|\bwe\s+are\b"
    r"|\b(?:developed|created|made|built|trained|designed|powered|provided)\s+by\b"
    r"|私|わたし|僕|ぼく|我々|弊社|名前|名は|申します|呼ばれ|開発|作成|作られ|製作|訓練|学習させ|提供",
    re.IGNORECASE,
)


def _pattern(spellings: list[str]) -> re.Pattern[str]:
    """Words, perhaps with a version after them; in Japanese there are no edges of words."""
    words = sorted(map(re.escape, spellings), key=len, reverse=True)
    return re.compile(f"(?<![A-Za-z0-9])(?:{'|'.join(words)})(?![A-Za-z])", re.IGNORECASE)


def _clauses(answer: str) -> Iterator[tuple[str, bool, bool]]:
    """Parts of sentences; whether each is denied, and whether the model speaks of itself in it.

    After "I am not X" the rest of the sentence is denied until the model speaks of itself anew.
    After "ではなく" the rest says what is true instead, of the same subject.
    """
    for sentence in _SENTENCE.split(answer):
        denied = of_itself = instead = False
        for clause in _CLAUSE.split(sentence):
            speaks = _OF_ITSELF.search(clause) is not None
            of_itself = speaks or (instead and of_itself)
            denied = _DENIAL.search(clause) is not None or (denied and not speaks and not instead)
            yield clause, denied, of_itself
            instead = clause.endswith("なく")

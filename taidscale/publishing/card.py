"""A model card: metadata that the Hub reads, and a text of which some sections are generated.

Generated sections stand between two comments, so that they can be made anew while everything
that people have written around them stays as it is.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

import yaml

PERMISSIVE = frozenset(
    ("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0")
)
"""Licences under which what is made from a model may have another one."""

_ORDER = (
    *("license", "license_name", "license_link", "language", "base_model"),
    *("base_model_relation", "datasets", "library_name", "pipeline_tag", "tags"),
)


@dataclass(frozen=True)
class Card:
    """`README.md` of a model."""

    metadata: dict[str, Any]
    """What stands between the first two lines of dashes."""
    header: str
    """The same as text, dashes included; empty where there is none."""
    body: str

    @classmethod
    def new(cls, metadata: dict[str, Any], body: str) -> "Card":
        """A card of its own."""
        return cls({}, "", body).with_metadata(metadata)

    @classmethod
    def parse(cls, text: str, name: str) -> "Card":
        """What a file holds.

        Args:
            text: of the file.
            name: of the file, for the message.

        Raises:
            ValueError: if its metadata are not YAML.
        """
        found = re.match(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", text, re.DOTALL)
        if found is None:
            return cls({}, "", text)
        try:
            metadata = yaml.safe_load(found[1]) or {}
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{name}: its metadata are not YAML: {reason}") from None
        if not isinstance(metadata, dict):
            raise ValueError(f"{name}: its metadata are no mapping; begin it with `license: ...`")
        return cls(metadata, found[0], text[found.end() :])

    @property
    def text(self) -> str:
        """What to write."""
        return self.header + self.body

    @property
    def run_step(self) -> int | None:
        """Optimizer steps after which the weights were taken; None where it does not say."""
        found = re.search(r"<!-- taidscale:run step=(\d+) -->", self.body)
        return int(found[1]) if found else None

    def with_metadata(self, entries: dict[str, Any]) -> "Card":
        """With these entries set; the text of the others stays unless one of these changes."""
        if all(self.metadata.get(name) == value for name, value in entries.items()):
            return self
        together = self.metadata | entries
        ordered = {name: together[name] for name in _ORDER if name in together} | together
        text = yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=1000)
        return replace(self, metadata=ordered, header=f"---\n{text}---\n")

    def with_section(self, name: str, content: str, note: str = "") -> "Card":
        """With a generated section made anew; at the end where there was none."""
        begin, end = (
            f"<!-- taidscale:{name}{note and ' ' + note} -->",
            f"<!-- /taidscale:{name} -->",
        )
        section = f"{begin}\n{content.strip()}\n{end}"
        pattern = rf"<!-- taidscale:{name}(?: [^>]*)? -->.*?{re.escape(end)}"
        body, count = re.subn(pattern, lambda _: section, self.body, count=1, flags=re.DOTALL)
        if not count:
            body = f"{self.body.rstrip()}\n\n{section}\n"
        return replace(self, body=body)

    def with_license(self, wanted: str | None) -> "Card":
        """With a licence, that of the models it was made from or one that theirs allows.

        Raises:
            ValueError: if there is none, or `wanted` is another than one that must stay.
        """
        own = self.metadata.get("license")
        if wanted is None and not own:
            raise ValueError(
                "license: the models that this one was made from have different licences, or none "
                "that their cards name; read them, and pass one that they allow, such as "
                "--license apache-2.0"
            )
        if wanted is None or wanted == own:
            return self
        if own and own not in PERMISSIVE:
            raise ValueError(
                f"--license {wanted}: the models that this one was made from are under {own}, "
                "which what is made from them keeps; leave --license out"
            )
        return self.with_metadata({"license": wanted})


def table(rows: list[list[str]]) -> str:
    """A table of Markdown; the first row is its head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines[1:1] = ["|" + "---|" * len(rows[0])]
    return "\n".join(lines)

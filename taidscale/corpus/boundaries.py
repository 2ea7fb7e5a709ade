"""Which tokens stand between documents, and who writes them?

A chat tokenizer's end-of-sequence token ends a turn, not a document; its template writes the tokens
that begin and end a chat. What is chosen here without being told is said, in the manifest too.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from taidscale.corpus.chats import ChatError, ChatTemplate
from taidscale.data.manifest import Separate
from taidscale.data.tokenizer import Tokenizer
from taidscale.home import at_home

_ENDS_TEXT = re.compile(r"end.?of.?(text|document|sentence)|</s>|\beo[ds]\b", re.IGNORECASE)
"""In the name of a control token that ends a document, such as `<|endoftext|>`."""
_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@dataclass
class Boundaries:
    """What is put before and after documents.

    Args:
        tokenizer: Of the documents.
        wanted_separator: Put after each document; None chooses.
        bos: Whether the tokenizer's first token is put before each document.
        chats: Whether the documents are chats.

    Attributes:
        separator_id: Put after documents.
        separate: After which; see `Manifest`.
        bos_id: Put before each document that does not begin with it.
        remarks: What was chosen, and what is doubtful about it.

    Raises:
        ValueError: The tokenizer has no such token.
    """

    tokenizer: Tokenizer
    wanted_separator: int | None
    bos: bool = False
    chats: bool = False
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Choose all that was left open."""
        self.separate: Separate = "all"
        self.bos_id = self._choose_bos() if self.bos else None
        if self.wanted_separator is not None:
            self.separator_id = self.wanted_separator
            return
        self.separator_id = self._choose_separator()
        if self.chats:
            self._leave_ends_to_the_template()

    @cached_property
    def _turn(self) -> tuple[str, list[int]]:
        """A short chat and its ids; empty without a template that renders it."""
        hf = self.tokenizer.hf
        if hf is None or not hf.is_fast or not hf.chat_template:
            return "", []
        template = ChatTemplate(hf)
        try:
            text = template.render(_PROBE)
        except ChatError:
            return "", []
        return text, template.encode(text)[0].tolist()

    def note_weights(self) -> None:
        """Remark where a template's marks leave out the token that ends the assistant's turn."""
        text, ids = self._turn
        template = ChatTemplate(self.tokenizer.hf) if text else None
        if template is None or not template.is_ended(text):
            return
        try:
            weights = template.weights(_PROBE, text, template.encode(text)[1])
        except ChatError:  # said of the first chat
            return
        control = np.isin(ids, self.tokenizer.control_ids)
        if not weights[np.flatnonzero(control)[-1]]:
            self.remarks.append(
                "the template's {% generation %} marks leave out the token that ends the "
                "assistant's turn, so that a student does not learn to end it; move the marks"
            )

    def _choose_bos(self) -> int:
        if self.tokenizer.bos_id is None:
            raise ValueError(
                f"tokenizer {self.tokenizer.name} has no token to begin a text; leave out --bos"
            )
        if self.chats and self._turn[1][:1] == [self.tokenizer.bos_id]:
            self.remarks.append("--bos adds nothing to chats that begin with bos already")
        return self.tokenizer.bos_id

    def _choose_separator(self) -> int:
        eos = self.tokenizer.eos_id
        if eos is None:
            raise ValueError(
                f"tokenizer {self.tokenizer.name} has no end-of-sequence token to separate "
                "documents; choose a token with --separator-id"
            )
        names = {index: token for token, index in self.tokenizer.vocabulary().items()}
        if eos not in self._turn[1] or _ENDS_TEXT.search(names[eos]):
            return eos
        control = set(self.tokenizer.control_ids) - set(self._turn[1])
        named = sorted(index for index in control if _ENDS_TEXT.search(names[index]))
        told = sorted(control.intersection(_generation_ends(self.tokenizer.name)))
        for found in (named, told):
            if len(found) == 1:
                self.remarks.append(
                    f"documents end with {names[found[0]]} ({found[0]}), as {names[eos]} ({eos}) "
                    "ends turns; --separator-id chooses another"
                )
                return found[0]
        self.remarks.append(
            f"documents end with {names[eos]} ({eos}), which also ends turns of chats, and the "
            "tokenizer does not tell another; --separator-id chooses one"
        )
        return eos

    def _leave_ends_to_the_template(self) -> None:
        self.separate = "unended"
        if (text := self._turn[0]) and ChatTemplate(self.tokenizer.hf).is_ended(text):
            self.remarks.append(
                "chats end as their template ends them, without a separator; --separator-id adds "
                "one after each"
            )


def _generation_ends(tokenizer: str) -> Iterable[int]:
    """The ids at which `generation_config.json` beside a tokenizer says to stop."""
    path = at_home(tokenizer) / "generation_config.json"
    try:
        ends = json.loads(path.read_text()).get("eos_token_id")
    except (OSError, ValueError, AttributeError):  # the tokenizer can do without
        return ()
    return ends if isinstance(ends, list) else [ends]

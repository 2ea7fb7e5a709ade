"""Which tokens of a chat the assistant wrote."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from textwrap import shorten
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, Any]]
_MARK = re.compile(r"\{%([-+]?)\s*(generation|endgeneration)\s*([-+]?)%\}")
"""In a template: what is between two of them is the assistant's."""
_STATEMENTS = {"generation": "call mark_generation()", "endgeneration": "endcall"}
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
"""Around what is marked; Unicode has promised that no text needs these characters."""
_MACRO = f"{{% macro mark_generation() %}}{_OPEN}{{{{ caller() }}}}{_CLOSE}{{% endmacro %}}\n"
"""In front of a template whose marks are calls of it; transformers takes off the line's end."""


class ChatError(Exception):
    """A chat that cannot be used."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        """A few words, the same for all of its kind."""


@dataclass(frozen=True)
class ChatTemplate:
    """Renders and encodes chats as a tokenizer's template says.

    No message may contain the text of a control token such as `<|im_end|>`. It would end the
    turn: a template joins the messages to one text, in which nothing tells its own control
    tokens from theirs, and encoding the parts one by one would not give the same ids for
    tokenizers that treat the beginning of a text differently.

    Raises:
        ValueError: The tokenizer has no template, or is a slow one, which cannot say where
            in a text its tokens stand.
    """

    hf: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        """Refuse what cannot encode chats."""
        if self.hf is None or not self.hf.chat_template:
            raise ValueError(
                "the tokenizer has no chat template; choose one that has, or give texts"
            )
        if not self.hf.is_fast:
            raise ValueError("the tokenizer is a slow one; chats need a fast tokenizer")

    def render(self, messages: Messages) -> str:
        """The text of a chat.

        Raises:
            ChatError: The template rejects it, or a message contains a control token.
        """
        control = (*self._control_tokens(), _OPEN, _CLOSE)
        for text in _strings(messages):
            if found := next((token for token in control if token in text), None):
                shown = found if found.isprintable() else ascii(found)
                raise ChatError(
                    "control token in chat",
                    f"a message contains {shown}, which would pass for the template's own "
                    "control token; take it out",
                )
        return self._render(messages)

    def is_ended(self, text: str) -> bool:
        """Whether a rendered chat ends with a control token, white space aside."""
        return text.rstrip().endswith(self._control_tokens())

    def encode(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Ids `[n]` of a rendered chat, and where in it, `[n, 2]`, each begins and ends."""
        backend = self.hf.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = False  # the template's control tokens are some
        encoding = backend.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, np.uint32)
        return ids, np.array(encoding.offsets, np.int64).reshape(-1, 2)

    def weights(
        self, messages: Messages, text: str, offsets: NDArray[np.int64]
    ) -> NDArray[np.float16]:
        """1 for the tokens all of whose characters the assistant writes, 0 for the rest.

        The assistant writes what the template marks with `{% generation %}`, and nothing else: a
        control token that ends the turn is its own where it is inside of the mark. In a template
        without these marks it writes what a message adds to the prompt for it: up to, and with,
        the control token that ends its turn, without the white space after that.

        A token that also holds characters of the template is the template's. Before the answer
        no model could choose it, as the prompt ends inside of it.

        Args:
            messages: Of the chat.
            text: The chat as `render` gives it.
            offsets: `[n, 2]`, of its tokens, from `encode`.

        Returns:
            `[n]`.

        Raises:
            ChatError: There is no assistant, or the template does not show where it writes.
        """
        weights = np.zeros(len(offsets), np.float16)
        first, last = offsets[:, 0], offsets[:, 1]
        find = self._marked if _MARK.search(self.hf.get_chat_template()) else self._spans
        for start, end in find(messages, text):
            weights[(start <= first) & (first < end) & (last <= end)] = 1
        if not weights.any():
            raise ChatError("no assistant", "no message of an assistant to learn from")
        return weights

    def _marked(self, messages: Messages, text: str) -> Iterator[tuple[int, int]]:
        """Yield the characters between each two marks of the template.

        Not from transformers' `assistant_masks`, which count from the first token of the last
        character, and lose a mark that nothing precedes.
        """
        template = _MACRO + _MARK.sub(_as_call, self.hf.get_chat_template())
        rendered = self._render(messages, chat_template=template)
        place, opened = 0, list[int]()
        for piece in re.split(f"([{_OPEN}{_CLOSE}])", rendered):
            if piece == _OPEN:
                opened.append(place)
            elif piece == _CLOSE and opened:
                yield opened.pop(), place
            else:
                place += len(piece)
        if opened or rendered.replace(_OPEN, "").replace(_CLOSE, "") != text:
            raise ChatError(
                "template with changing marks",
                "the chat template changes what its {% generation %} marks hold (trims it, say), "
                "so that the assistant's part is not known; move the marks, or take --loss-on all",
            )

    def _spans(self, messages: Messages, text: str) -> Iterator[tuple[int, int]]:
        """Yield the characters that each message of the assistant adds to its prompt."""
        control = self._control_tokens()
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self._render(messages[:number], add_generation_prompt=True)
            turn = self._render(messages[: number + 1])
            if not turn.startswith(prompt) or not text.startswith(turn):
                raise ChatError(
                    "template without prefixes",
                    f"the chat template renders what comes before or up to message {number + 1} "
                    "otherwise than in the whole chat, so that the assistant's part is not "
                    "known; give a template with {% generation %} marks, or take --loss-on all",
                )
            trimmed = turn.rstrip()
            end = len(trimmed) if trimmed.endswith(control) else len(turn)
            yield len(prompt), end

    def _render(self, messages: Messages, **options: Any) -> str:
        try:
            rendered = self.hf.apply_chat_template([messages], tokenize=False, **options)
        except Exception as error:  # a template may raise anything
            raise _rejected(error) from error
        return cast(str, rendered[0])

    def _control_tokens(self) -> tuple[str, ...]:
        added = self.hf.added_tokens_decoder.values()
        return tuple(token.content for token in added if token.special)


def _as_call(mark: re.Match[str]) -> str:
    """The mark as a statement that calls `mark_generation` with what it holds."""
    return f"{{%{mark[1]} {_STATEMENTS[mark[2]]} {mark[3]}%}}"


def _rejected(error: Exception) -> ChatError:
    reason = shorten(str(error) or repr(error), width=300, placeholder=" ...")
    return ChatError("rejected by the chat template", f"the chat template rejects it ({reason})")


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from chain.from_iterable(map(_strings, (*value, *value.values())))
    elif isinstance(value, list):
        yield from chain.from_iterable(map(_strings, value))

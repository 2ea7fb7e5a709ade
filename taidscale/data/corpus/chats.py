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
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""In a template: what follows is the assistant's."""


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
        control = self._control_tokens()
        for text in _strings(messages):
            if found := next((token for token in control if token in text), None):
                raise ChatError(
                    "control token in chat",
                    f"a message contains {found}, which would pass for the template's own "
                    "control token; take it out",
                )
        return self._render(messages)

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
        """1 for what the assistant writes, 0 for the rest.

        The assistant writes what the template marks with `{% generation %}`. In a template
        without these marks it writes what a message adds to the prompt for it, without the
        white space after the control token that ends its turn; a token that begins before
        that is not its own.

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
        if GENERATION_MARK.search(self.hf.get_chat_template()):
            weights[:] = self._mask(messages)
        else:
            first, last = offsets[:, 0], offsets[:, 1]
            for start, end in self._spans(messages, text):
                weights[(start <= first) & (first < end) & (last <= end)] = 1
        if not weights.any():
            raise ChatError("no assistant", "no message of an assistant to learn from")
        return weights

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
                    "known; give a template with {% generation %} marks, or loss_on all",
                )
            trimmed = turn.rstrip()
            end = len(trimmed) if trimmed.endswith(control) else len(turn)
            yield len(prompt), end

    def _mask(self, messages: Messages) -> list[int]:
        try:
            encoded = self.hf.apply_chat_template(
                [messages], return_dict=True, return_assistant_tokens_mask=True
            )
        except Exception as error:  # a template may raise anything
            raise _rejected(error) from error
        return cast(list[int], encoded["assistant_masks"][0])

    def _render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        try:
            rendered = self.hf.apply_chat_template(
                [messages], tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # a template may raise anything
            raise _rejected(error) from error
        return cast(str, rendered[0])

    def _control_tokens(self) -> tuple[str, ...]:
        added = self.hf.added_tokens_decoder.values()
        return tuple(token.content for token in added if token.special)


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

"""Which ids and weights a document becomes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveInt

from taidscale.corpus.chats import ChatError, ChatTemplate
from taidscale.corpus.records import Block, Document
from taidscale.data.counts import Counts, OnError, Problem, stop
from taidscale.data.tokenizer import Tokenizer, load_tokenizer
from taidscale.data.unknown import find_unknown

MAX_CHARACTERS = 10_000_000
"""A longer document is an error unless the settings say otherwise.

Tokenizers keep about 100 bytes for each byte of the text they are at: 1 GB in English at this
length, 2.5 in Japanese.
"""
BATCH_CHARACTERS = 1 << 18
"""Encoded at a time, but for a longer document."""


class EncodingSettings(BaseModel):
    """How documents are encoded and which are; goes into the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    tokenizer: str
    """Folder or Hub id of a Hugging Face tokenizer, or a SentencePiece `.model` file."""
    revision: str | None = None
    """Of the tokenizer on the Hub."""
    loss_on: Literal["all", "assistant"] = "all"
    """`assistant` gives weight 1 to what a chat's assistant says and 0 to the rest."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do about a record that cannot be used; a skipped one is counted."""
    min_characters: PositiveInt | None = None
    """Filter: shorter documents are left out."""
    max_characters: PositiveInt | None = None
    """Filter: longer documents are left out; without it one over 10,000,000 is an error."""
    min_tokens: PositiveInt | None = None
    """Filter: documents of fewer tokens are left out."""
    max_tokens: PositiveInt | None = None
    """Filter: documents of more tokens are left out."""


@dataclass(frozen=True)
class EncodedDocument:
    """A document without a separator, and without a beginning but what a chat template writes."""

    ids: NDArray[np.uint32]
    """`[n]`, n >= 1."""
    weights: NDArray[np.float16] | None = None
    """`[n]` of the losses of predicting these ids, with `loss_on="assistant"`; None: all 1."""
    is_ended: bool = False
    """Whether it ends with a control token of its own, which a chat template wrote."""


class Encoder:
    """Encodes blocks; picklable, and a process loads the tokenizer once.

    Decoding gives the text back, but for what the tokenizer normalises: Qwen2.5 composes
    characters (NFC); llm-jp and many SentencePiece models take `▁` (U+2581) for a space. A text
    never becomes control tokens. Added tokens that are not special, such as Qwen2.5's
    `<tool_call>`, are found in it as the tokenizer's authors mean them to be.

    Args:
        settings: What to encode with.

    Raises:
        ValueError: The tokenizer cannot be loaded.
    """

    def __init__(self, settings: EncodingSettings) -> None:
        """Load the tokenizer, so that a wrong name fails at once."""
        self.settings = settings
        _load(settings.tokenizer, settings.revision)

    @property
    def tokenizer(self) -> Tokenizer:
        """What encodes."""
        return self._loaded[0]

    @property
    def _loaded(self) -> tuple[Tokenizer, NDArray[np.bool_]]:
        return _load(self.settings.tokenizer, self.settings.revision)

    def __call__(self, block: Block) -> tuple[list[EncodedDocument], Counts]:
        """Encode what is in a block, in order.

        Raises:
            ValueError: A record cannot be used and `on_error` is `stop`; a broken
                tokenizer, or one that cannot do what the settings want.
        """
        counts = Counts(raw_bytes=block.num_bytes)
        on_error = stop if self.settings.on_error == "stop" else counts.skip
        encode = self._chats if block.is_chat else self._texts
        documents = []
        for source, text, document in encode(block.documents(on_error), counts, on_error):
            num_tokens = len(document.ids)
            unknown = find_unknown(self.tokenizer, text, document.ids)
            if num_tokens and not self._is_within("tokens", num_tokens, counts):
                continue
            counts.add_unknown(unknown.num_tokens, unknown.parts, source.place)
            if num_tokens == 0:  # white space that the tokenizer takes away, or all unknown
                counts.empty += 1
                counts.characters += len(text) if unknown.parts else 0
            else:
                documents.append(document)
                counts.documents += 1
                counts.characters += len(text)
                counts.tokens += num_tokens
        return documents, counts

    def _texts(
        self, documents: Iterable[Document], counts: Counts, on_error: OnError
    ) -> Iterator[tuple[Document, str, EncodedDocument]]:
        if self.settings.loss_on == "assistant":
            raise ValueError(
                "--loss-on assistant needs chats; give --chat-column, or --loss-on all"
            )
        wanted = (
            (document.text, document)
            for document in documents
            if document.text is not None
            and self._is_wanted(document.text, document.place, counts, on_error)
        )
        tokenizer, is_control = self._loaded
        for batch in _batches(wanted):
            encoded = tokenizer.encode_batch([text for text, _ in batch])
            for (text, document), entries in zip(batch, encoded, strict=True):
                ids = np.fromiter(entries, np.uint32, len(entries))
                self._check(ids)
                if is_control[ids].any():
                    detail = (
                        f"tokenizer {tokenizer.name} makes a control token of its name in the "
                        "text; take it out, or give a fast tokenizer"
                    )
                    on_error(Problem("control token in text", document.place, detail))
                else:
                    yield document, text, EncodedDocument(ids)

    def _chats(
        self, documents: Iterable[Document], counts: Counts, on_error: OnError
    ) -> Iterator[tuple[Document, str, EncodedDocument]]:
        template = ChatTemplate(self.tokenizer.hf)
        for document in documents:
            if not document.messages:
                counts.empty += 1
                continue
            try:
                text = template.render(document.messages)
                if not self._is_wanted(text, document.place, counts, on_error):
                    continue
                ids, offsets = template.encode(text)
                self._check(ids)
                weights = None
                if self.settings.loss_on == "assistant":
                    weights = template.weights(document.messages, text, offsets)
            except ChatError as error:
                on_error(Problem(error.reason, document.place, str(error)))
                continue
            yield document, text, EncodedDocument(ids, weights, template.is_ended(text))

    def _check(self, ids: NDArray[np.uint32]) -> None:
        tokenizer, is_control = self._loaded
        if len(ids) and (largest := int(ids.max())) >= len(is_control):
            raise ValueError(
                f"tokenizer {tokenizer.name} gives the id {largest}, and the largest in its "
                f"vocabulary is {len(is_control) - 1}; its files do not belong together"
            )

    def _is_wanted(self, text: str, place: str, counts: Counts, on_error: OnError) -> bool:
        """Whether to encode a text; counts or reports it if not."""
        if not text or text.isspace():
            counts.empty += 1
            return False
        if self.settings.max_characters is None and len(text) > MAX_CHARACTERS:
            detail = (
                f"a document of {len(text):,} characters, more than {MAX_CHARACTERS:,}; split "
                "it, or set --max-characters to what memory allows or to leave such ones out"
            )
            on_error(Problem("too long", place, detail))
            return False
        return self._is_within("characters", len(text), counts)

    def _is_within(self, unit: str, number: int, counts: Counts) -> bool:
        """Whether the filters of characters or tokens let a document pass; counts it if not."""
        shortest: int | None = getattr(self.settings, f"min_{unit}")
        longest: int | None = getattr(self.settings, f"max_{unit}")
        if shortest is not None and number < shortest:
            counts.filter(f"min_{unit}")
        elif longest is not None and number > longest:
            counts.filter(f"max_{unit}")
        else:
            return True
        return False


@lru_cache(maxsize=1)
def _load(name: str, revision: str | None) -> tuple[Tokenizer, NDArray[np.bool_]]:
    """A tokenizer and, `[size]`, which of its tokens are control tokens."""
    tokenizer = load_tokenizer(name, revision)
    is_control = np.zeros(tokenizer.size, np.bool_)
    is_control[tokenizer.control_ids] = True
    return tokenizer, is_control


def _batches(texts: Iterable[tuple[str, Document]]) -> Iterator[list[tuple[str, Document]]]:
    """Some texts at a time: a tokenizer keeps a hundred times the ids."""
    batch: list[tuple[str, Document]] = []
    num_characters = 0
    for text, document in texts:
        batch.append((text, document))
        num_characters += len(text)
        if num_characters >= BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch

"""Which ids stand for which text."""

import hashlib
import json
import logging
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol

import sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from taidscale.data.hugging_face_tokenizer import HuggingFaceTokenizer
from taidscale.data.segmentation import Segmentation
from taidscale.data.sentencepiece_tokenizer import SentencePieceTokenizer
from taidscale.home import at_home

TOKENIZER_FILES = ("tokenizer", "vocab", "spiece")


class Tokenizer(Protocol):
    """Text to ids and back, whatever library does it."""

    @property
    def name(self) -> str:
        """The folder, file or Hub id that it was loaded from."""

    @property
    def size(self) -> int:
        """Largest id + 1: the fewest rows that an embedding needs."""

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text, or a turn of a chat; None where the tokenizer has none."""

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text; None where the tokenizer has none."""

    @property
    def unknown_id(self) -> int | None:
        """The token for text that the tokenizer does not know; None where it has none."""

    @property
    def can_drop(self) -> bool:
        """Whether text that it does not know becomes no token at all."""

    @property
    def hf(self) -> PreTrainedTokenizerBase | None:
        """The Hugging Face tokenizer behind it, for exporters; None for SentencePiece."""

    @property
    def control_ids(self) -> list[int]:
        """Of the tokens, such as `<|endoftext|>`, that stand for no text."""

    @property
    def reserved_ids(self) -> set[int]:
        """Of the tokens that were added to those of texts, or kept free: the control ones too."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without special tokens around it.

        The name of a control token in a text is text like any other and not that token, but
        for some slow tokenizers of transformers.
        """

    def decode(self, ids: list[int]) -> str:
        """The text of some ids."""

    def unknown_parts(self, text: str) -> list[str]:
        """What of a text the tokenizer does not know, a run that one token stands for at a time.

        Slower than encoding; call it for texts whose ids hold `unknown_id`.
        """

    def vocabulary(self) -> dict[str, int]:
        """Every token, added ones included, and its id."""

    def segmentation(self) -> Segmentation:
        """What, besides the entries, decides the ids of a text."""


def load_tokenizer(name: str, revision: str | None = None) -> Tokenizer:
    """Load a tokenizer.

    Args:
        name: A folder with Hugging Face tokenizer files, a SentencePiece `.model` file, or
            a Hub id.
        revision: Branch, tag or commit; for a Hub id.

    Raises:
        ValueError: There is no tokenizer, or it cannot be read.
    """
    path = at_home(name)
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(".model")
    is_path = is_path or ("/" in name and path.parent.is_dir())  # no owner on the Hub
    if is_path and not path.exists():
        raise ValueError(
            f"no tokenizer at {name}: there is no such file or folder; "
            "give a folder, a SentencePiece .model file or a Hub id"
        )
    if path.is_file():
        return _load_sentencepiece(name, path)
    return _load_hugging_face(name, path, revision)


def fingerprint(vocabulary: dict[str, int]) -> str:
    """SHA-256 of the (id, token) entries, in hexadecimal.

    Equal for tokenizers whose ids mean the same tokens. Neither the order of the entries
    nor what surrounds the vocabulary, such as a chat template, changes it.
    """
    entries = sorted((index, token) for token, index in vocabulary.items())
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _load_hugging_face(name: str, path: Path, revision: str | None) -> HuggingFaceTokenizer:
    is_folder = path.is_dir()
    if is_folder and not any(file.name.startswith(TOKENIZER_FILES) for file in path.iterdir()):
        raise ValueError(
            f"no tokenizer in the folder {name}: it has no tokenizer.json; copy the files of the "
            "tokenizer there, or give another folder"
        )
    try:
        hf = _from_pretrained(str(path) if is_folder else name, None if is_folder else revision)
    except Exception as error:  # each tokenizer class and the Hub client raise their own types
        kind = "folder" if is_folder else "Hub id (there is no such local folder)"
        reason = shorten(str(error), width=300, placeholder=" ...")
        raise ValueError(f"cannot load a tokenizer from the {kind} {name}: {reason}") from error
    if not hf.get_vocab():
        raise ValueError(f"the tokenizer of {name} has no entries; is a file of it missing?")
    return HuggingFaceTokenizer(name, hf)


def _from_pretrained(place: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Load what this transformers wrote, or the one after it, whose tokenizer.json is the same.

    Version 5 calls every fast tokenizer `TokenizersBackend`, keeps special tokens that have no
    role in a list under `extra_special_tokens`, and those of the model's own roles elsewhere.
    """
    settings = get_tokenizer_config(place, revision=revision)
    newer: dict[str, Any] = {}
    if isinstance(extra := settings.get("extra_special_tokens"), list):
        roles = settings.get("model_specific_special_tokens") or {}
        newer = {"extra_special_tokens": roles, "additional_special_tokens": extra}
    if settings.get("tokenizer_class") != "TokenizersBackend":
        return AutoTokenizer.from_pretrained(place, revision=revision, **newer)
    log = logging.getLogger("transformers.tokenization_utils_base")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of the other name
    try:
        return PreTrainedTokenizerFast.from_pretrained(place, revision=revision, **newer)
    finally:
        log.setLevel(level)


def _load_sentencepiece(name: str, path: Path) -> SentencePieceTokenizer:
    try:
        return SentencePieceTokenizer(
            name, sentencepiece.SentencePieceProcessor(model_file=str(path))
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{name} is not a SentencePiece model; give a .model file, or the folder of a "
            "Hugging Face tokenizer"
        ) from error

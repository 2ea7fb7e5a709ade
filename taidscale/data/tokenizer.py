"""Which ids stand for which text."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Protocol, cast

import sentencepiece
import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

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
    def separator_id(self) -> int | None:
        """The token that ends a document; None where the tokenizer has none."""

    @property
    def hf(self) -> PreTrainedTokenizerBase | None:
        """The Hugging Face tokenizer behind it, for exporters; None for SentencePiece."""

    @property
    def control_ids(self) -> list[int]:
        """Of the tokens, such as `<|endoftext|>`, that stand for no text."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without special tokens around it.

        The name of a control token in a text is text like any other and not that token, but
        for some slow tokenizers of transformers.
        """

    def decode(self, ids: list[int]) -> str:
        """The text of some ids."""

    def vocabulary(self) -> dict[str, int]:
        """Every token, added ones included, and its id."""


@dataclass(frozen=True)
class HuggingFaceTokenizer:
    """A tokenizer of transformers."""

    name: str
    hf: PreTrainedTokenizerBase

    @property
    def size(self) -> int:
        """Largest id + 1, which `len` is not where ids have gaps."""
        return max(self.vocabulary().values()) + 1

    @property
    def separator_id(self) -> int | None:
        """The end-of-sequence token."""
        return cast(int | None, self.hf.eos_token_id)

    @property
    def control_ids(self) -> list[int]:
        """The special tokens but the one for what is unknown, which does stand for text."""
        added = {index for index, token in self.hf.added_tokens_decoder.items() if token.special}
        return sorted((added | set(self.hf.all_special_ids)) - {self.hf.unk_token_id})

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without special tokens around it or in it."""
        if not texts:
            return []
        if not self.hf.is_fast:
            # verbose=False: documents longer than the model's context are no problem here.
            encoded = self.hf(
                texts,
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
                verbose=False,
            )
            return cast(list[list[int]], encoded["input_ids"])
        # Without transformers, which copies what is of no use here, and without the position
        # of each token in the text.
        backend = self._for_texts
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        return [text.ids for text in backend.encode_batch_fast(texts, add_special_tokens=False)]

    @cached_property
    def _for_texts(self) -> tokenizers.Tokenizer:
        """The tokenizer, or a copy whose unigram model does not have the control tokens.

        Such a model finds their names in a text whatever `encode_special_tokens` says.
        """
        backend = self.hf.backend_tokenizer
        if not isinstance(backend.model, tokenizers.models.Unigram):
            return backend
        state = json.loads(backend.to_str())
        vocabulary, added = state["model"]["vocab"], state["added_tokens"]
        control = {token["content"] for token in added if token["special"]}
        control &= {piece for piece, _ in vocabulary}
        # Renamed, not removed, for ids and scores to stay; no text has this character.
        state["model"]["vocab"] = [
            [f"\uffff{piece}" if piece in control else piece, score] for piece, score in vocabulary
        ]
        # The ids of the others go on from the model's and stay too.
        state["added_tokens"] = [token for token in added if token["content"] not in control]
        return tokenizers.Tokenizer.from_str(json.dumps(state))

    def decode(self, ids: list[int]) -> str:
        """The text of some ids, special tokens included."""
        return cast(str, self.hf.decode(ids, clean_up_tokenization_spaces=False))

    def vocabulary(self) -> dict[str, int]:
        """Every token, added ones included, and its id."""
        return cast(dict[str, int], self.hf.get_vocab())


@dataclass(frozen=True)
class SentencePieceTokenizer:
    """A SentencePiece `.model` file."""

    name: str
    pieces: sentencepiece.SentencePieceProcessor

    @property
    def size(self) -> int:
        """Number of pieces; their ids have no gaps."""
        return self.pieces.get_piece_size()

    @property
    def separator_id(self) -> int | None:
        """The end-of-sentence piece."""
        eos = self.pieces.eos_id()
        return None if eos < 0 else eos

    @property
    def hf(self) -> None:
        """There is none."""
        return

    @property
    def control_ids(self) -> list[int]:
        """The control pieces."""
        return [index for index in range(self.size) if self.pieces.is_control(index)]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without control pieces around it or in it."""
        # One thread: who has more cores runs more processes.
        return cast(list[list[int]], self.pieces.encode(texts, out_type=int, num_threads=1))

    def decode(self, ids: list[int]) -> str:
        """The text of some ids."""
        return cast(str, self.pieces.decode(ids))

    def vocabulary(self) -> dict[str, int]:
        """Every piece and its id; of equal pieces the first counts, as in encoding."""
        entries: dict[str, int] = {}
        for index in range(self.size):
            entries.setdefault(self.pieces.id_to_piece(index), index)
        return entries


def load_tokenizer(name: str, revision: str | None = None) -> Tokenizer:
    """Load a tokenizer.

    Args:
        name: A folder with Hugging Face tokenizer files, a SentencePiece `.model` file, or
            a Hub id.
        revision: Branch, tag or commit; for a Hub id.

    Raises:
        ValueError: There is no tokenizer, or it cannot be read.
    """
    path = Path(name).expanduser()
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(".model")
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
        hf: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path if is_folder else name, revision=None if is_folder else revision
        )
    except Exception as error:  # each tokenizer class and the Hub client raise their own types
        kind = "folder" if is_folder else "Hub id (there is no such local folder)"
        reason = shorten(str(error), width=300, placeholder=" ...")
        raise ValueError(f"cannot load a tokenizer from the {kind} {name}: {reason}") from error
    if not hf.get_vocab():
        raise ValueError(f"the tokenizer of {name} has no entries; is a file of it missing?")
    return HuggingFaceTokenizer(name, hf)


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

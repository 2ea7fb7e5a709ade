"""Text to ids and back with a tokenizer of transformers."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import tokenizers
from transformers import PreTrainedTokenizerBase

from taidscale.data.segmentation import Segmentation
from taidscale.data.sentencepiece_tokenizer import segmentation_of


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
    def eos_id(self) -> int | None:
        """The end-of-sequence token."""
        return cast(int | None, self.hf.eos_token_id)

    @property
    def bos_id(self) -> int | None:
        """The beginning-of-sequence token."""
        return cast(int | None, self.hf.bos_token_id)

    @cached_property
    def unknown_id(self) -> int | None:
        """What the model itself gives; `hf.unk_token` may be a token of another meaning."""
        if not self.hf.is_fast:
            return cast(int | None, self.hf.unk_token_id)
        model = self.hf.backend_tokenizer.model
        if isinstance(model, tokenizers.models.Unigram):
            return cast(int | None, self._state()["model"]["unk_id"])
        token = model.unk_token
        return None if token is None else cast(int | None, model.token_to_id(token))

    @cached_property
    def can_drop(self) -> bool:
        """True for BPE without an unknown token where some byte or character has no token."""
        model = self.hf.backend_tokenizer.model if self.hf.is_fast else None
        if not isinstance(model, tokenizers.models.BPE) or self.unknown_id is not None:
            return False
        if model.byte_fallback:
            alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
        elif "ByteLevel" in f"{self.hf.backend_tokenizer.pre_tokenizer}" or (
            "ByteLevel" in f"{self.hf.backend_tokenizer.normalizer}"
        ):
            alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        else:
            return True
        return any(model.token_to_id(symbol) is None for symbol in alphabet)

    @property
    def control_ids(self) -> list[int]:
        """The special tokens but the one for what is unknown, which does stand for text."""
        added = {index for index, token in self.hf.added_tokens_decoder.items() if token.special}
        special = added | set(self.hf.all_special_ids)
        return sorted(special - {self.hf.unk_token_id, self.unknown_id})

    @property
    def reserved_ids(self) -> set[int]:
        """All added tokens, special or not, and special ones that are the model's own."""
        return {*self.hf.added_tokens_decoder, *self.hf.all_special_ids}

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
        state = self._state()
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

    @cached_property
    def _marking_unknown(self) -> tuple[tokenizers.Tokenizer, int | None]:
        """The tokenizer, and the id of what it does not know.

        Of one that drops such text, a copy that has a token for it.
        """
        if not self.can_drop:
            return self._for_texts, self.unknown_id
        state, token = self._state(), "\uffff"  # which no text has
        state["model"]["vocab"][token] = 1 + max(state["model"]["vocab"].values())
        state["model"] |= {"unk_token": token, "fuse_unk": True}
        backend = tokenizers.Tokenizer.from_str(json.dumps(state))
        return backend, backend.token_to_id(token)

    def _state(self) -> dict[str, Any]:
        return cast(dict[str, Any], json.loads(self.hf.backend_tokenizer.to_str()))

    def unknown_parts(self, text: str) -> list[str]:
        """What of a text the tokenizer does not know."""
        if not self.hf.is_fast:
            pieces = self.hf.tokenize(text, split_special_tokens=True)
            ids = self.hf.convert_tokens_to_ids(pieces)
            pairs = zip(pieces, ids, strict=True)
            return [piece for piece, number in pairs if number == self.unknown_id]
        backend, unknown = self._marking_unknown
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        encoding = backend.encode(text, add_special_tokens=False)
        places = zip(encoding.ids, encoding.offsets, strict=True)
        return [text[start:end] for number, (start, end) in places if number == unknown]

    def decode(self, ids: list[int]) -> str:
        """The text of some ids, special tokens included."""
        return cast(str, self.hf.decode(ids, clean_up_tokenization_spaces=False))

    def vocabulary(self) -> dict[str, int]:
        """Every token, added ones included, and its id."""
        return cast(dict[str, int], self.hf.get_vocab())

    def segmentation(self) -> Segmentation:
        """What tokenizer.json says of it; of a slow tokenizer the scores of its pieces."""
        if not self.hf.is_fast:
            pieces = getattr(self.hf, "sp_model", None)
            return (
                Segmentation(type(self.hf).__name__) if pieces is None else segmentation_of(pieces)
            )
        state = self._state()
        model = state["model"]
        settings = {name: state[name] for name in ("normalizer", "pre_tokenizer")}
        settings |= {k: value for k, value in model.items() if k not in ("type", "vocab", "merges")}
        scores = {}
        if model["type"] == "Unigram":
            scores = {index: score for index, (_, score) in enumerate(model["vocab"])}
        merges = [(first, second) for first, second in model.get("merges", [])]
        return Segmentation(model["type"], merges, scores, settings)

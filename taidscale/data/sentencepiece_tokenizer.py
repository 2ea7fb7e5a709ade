"""Text to ids and back with a SentencePiece `.model` file."""

from dataclasses import dataclass
from typing import cast

import sentencepiece

from taidscale.data.segmentation import Segmentation


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
    def eos_id(self) -> int | None:
        """The end-of-sentence piece."""
        return _known(self.pieces.eos_id())

    @property
    def bos_id(self) -> int | None:
        """The beginning-of-sentence piece."""
        return _known(self.pieces.bos_id())

    @property
    def unknown_id(self) -> int | None:
        """The unknown piece."""
        return _known(self.pieces.unk_id())

    @property
    def can_drop(self) -> bool:
        """Never: every model has an unknown piece."""
        return False

    @property
    def hf(self) -> None:
        """There is none."""
        return

    @property
    def control_ids(self) -> list[int]:
        """The control pieces."""
        return [index for index in range(self.size) if self.pieces.is_control(index)]

    @property
    def reserved_ids(self) -> set[int]:
        """The unknown piece, those for control and unused ones; the library tells of no others."""
        kinds = (self.pieces.is_unknown, self.pieces.is_control, self.pieces.is_unused)
        return {index for index in range(self.size) if any(kind(index) for kind in kinds)}

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without control pieces around it or in it."""
        # One thread: who has more cores runs more processes.
        return cast(list[list[int]], self.pieces.encode(texts, out_type=int, num_threads=1))

    def decode(self, ids: list[int]) -> str:
        """The text of some ids."""
        return cast(str, self.pieces.decode(ids))

    def unknown_parts(self, text: str) -> list[str]:
        """What of a text the tokenizer does not know."""
        pieces = self.pieces.encode(text, return_type="proto").pieces
        return [piece.surface for piece in pieces if piece.id == self.unknown_id]

    def vocabulary(self) -> dict[str, int]:
        """Every piece and its id; of equal pieces the first counts, as in encoding."""
        entries: dict[str, int] = {}
        for index in range(self.size):
            entries.setdefault(self.pieces.id_to_piece(index), index)
        return entries

    def segmentation(self) -> Segmentation:
        """Scores of all pieces; how text is normalized is in the file, and seen by what it does."""
        return segmentation_of(self.pieces)


def segmentation_of(pieces: sentencepiece.SentencePieceProcessor) -> Segmentation:
    """That of a SentencePiece model, whoever wraps it."""
    scores = {index: pieces.get_score(index) for index in range(pieces.get_piece_size())}
    return Segmentation("SentencePiece", scores=scores)


def _known(number: int) -> int | None:
    return None if number < 0 else number

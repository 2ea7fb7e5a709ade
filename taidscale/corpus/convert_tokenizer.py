"""Which Hugging Face tokenizer gives the ids of a SentencePiece model of `train_tokenizer`?"""

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from taidscale.corpus.train_tokenizer import SPECIAL_TOKENS, Model


def to_hugging_face(model: Model, splitter: pre_tokenizers.PreTokenizer) -> PreTrainedTokenizerBase:
    """The same pieces, ids and encoding.

    Args:
        model: Trained by `train_tokenizer.train`.
        splitter: Cuts texts into words, beyond which no piece goes.

    Raises:
        ValueError: A piece does go beyond a word of the splitter.
    """
    for piece in model.pieces:
        # What is only called so, like the bytes, no model must find in a text.
        if piece.type != piece.USER_DEFINED and (piece.type == piece.NORMAL) != (
            len(splitter.pre_tokenize_str(piece.piece)) == 1
        ):
            raise ValueError(f"piece {piece.piece!r} does not fit the splitter's words")
    is_unigram = model.trainer_spec.model_type == model.trainer_spec.UNIGRAM
    tokenizer = Tokenizer(_unigram(model) if is_unigram else _bpe(model))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL_TOKENS])
    symbols = [piece.piece for piece in model.pieces if piece.type == piece.USER_DEFINED]
    tokenizer.add_tokens([AddedToken(symbol, normalized=False) for symbol in symbols])
    unk, bos, eos, pad = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=unk,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        split_special_tokens=True,  # a text cannot make them, as in SentencePiece
        clean_up_tokenization_spaces=False,
    )


def _unigram(model: Model) -> models.Unigram:
    """The same pieces and scores."""
    return models.Unigram(
        [(piece.piece, piece.score) for piece in model.pieces],
        unk_id=model.trainer_spec.unk_id,
        byte_fallback=True,
    )


def _bpe(model: Model) -> models.BPE:
    """The same merges, in the order of the pieces that they make.

    SentencePiece merges any two neighbours that are a piece together, the best piece first. A
    piece always comes about as it does from its characters alone: had a neighbour taken part
    earlier, it would not come about at all. So a piece has one last merge, and only that counts.
    """
    scores = {p.piece: p.score for p in model.pieces if p.type == p.NORMAL}
    merges = [merge for piece in scores if (merge := _last_merge(piece, scores))]
    return models.BPE(
        vocab={piece.piece: number for number, piece in enumerate(model.pieces)},
        merges=sorted(merges, key=lambda merge: -scores[merge[0] + merge[1]]),
        unk_token=model.trainer_spec.unk_piece,
        byte_fallback=True,
    )


def _last_merge(piece: str, scores: dict[str, float]) -> tuple[str, str] | None:
    parts = list(piece)
    while len(parts) > 2:
        # The first of the best, as in SentencePiece.
        best = max(range(len(parts) - 1), key=lambda k: _score(parts, k, scores))
        if _score(parts, best, scores) == float("-inf"):
            return None  # no text ever gets this piece
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None


def _score(parts: list[str], place: int, scores: dict[str, float]) -> float:
    return scores.get(parts[place] + parts[place + 1], float("-inf"))

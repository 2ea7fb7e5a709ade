"""How texts become a tokenizer that two libraries agree on, and whether they do.

A SentencePiece model is trained on the *words* of the texts with their counts: runs of
letters, white space or other characters, each with the spaces before it, and single digits.
Whether a word ends between two characters depends on these two alone and no piece goes
beyond a word, so that a text may be cut into words before it is encoded or not be: the ids
are the same. SentencePiece does not cut, and the library `tokenizers` does, for its speed.

Nothing of a text is lost: it is not normalised, spaces stay spaces in the pieces (hence
SentencePiece's usual mark for them, U+2581, is a character as any other), and characters
without a piece become bytes.
"""

import heapq
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, Literal

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, pre_tokenizers
from xxhash import xxh64_intdigest

from taidscale.data.tokenizer import Tokenizer

Kind = Literal["bpe", "unigram"]
Model = Any
"""`sentencepiece_model_pb2.ModelProto`, which has no types."""

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
"""Ids 0 to 3.

As SentencePiece has it, no text makes them; that they are written in one does not end a document.
"""
MAX_WORD = 1024
"""Longer words are cut for training, where they would take long and teach nothing."""
NUM_THREADS = 16
"""The sums of SentencePiece's training, hence its models, depend on it; not on the cores."""
SCORE_STEPS = 4
"""Scores of a unigram model are multiples of 1/4.

SentencePiece adds them in float32 and the other library in float64, both without rounding to a sum
of 2^22, half a million tokens.
"""

# SentencePiece's trainer gives these a meaning; they are noncharacters while it runs.
_STAND_INS = {"\n": "\ufdd0", "\r": "\ufdd1", "\t": "\ufdd2"}
_TO_TRAINER = str.maketrans(_STAND_INS)
_FROM_TRAINER = str.maketrans({new: old for old, new in _STAND_INS.items()} | {"\u2581": " "})
_NOT_FOR_TRAINER = re.compile("[\0\u2581\u2585\ufdd0-\ufdd2]")

DIFFICULT_TEXTS = (
    "", " ", "  ", "\n", "\r\n", "\t", "\0", "\0\0a\0", "\u2581", "a\u2581 \u2581\u2581b\u2585",
    " a", "a ", "  a  b   c    ", "\n\n a\r\n\r\n\tb \n", "if x:\n        y = [1,  2]\n\n\n#",
    "<unk><s></s><pad>", "a<s>b </s>", "<0x0A><0xE3>", "<0x0A", "<|im_start|>user\n", "a_b.c/d?e=f",
    "0 12  345,678.90", "１２３ ½ ²", "x1y2", "don't stop—now…", "!" * 99, "e\u0301 é ﬁ Å",
    "🙂", "👩\u200d👧\u200d👦🏽 🇯🇵x", "\u200d\u200b\ufeffa\u00a0b\u3000c\u2028d\x85e\x0bf",
    "\ufdd0\ufdd1\ufdd2", "\ufffd\uffff", "\U0010ffff", "𠮷と𩸽、「はい。」\n\u3000ＡＢＣ",
    "مرحبا بالعالم", "नमस्ते दुनिया",
    "안녕하세요 세계", "Привет, мир!", "a" * 999, " " * 999, "ab" * 500, "あ" * 500,
)  # fmt: skip


def choose_sample(texts: Iterable[str], num_bytes: int, seed: int = 0) -> list[str]:
    """A random part of some texts, in random order; their order does not matter.

    Args:
        texts: Read once; no more than the sample is kept in memory.
        num_bytes: Of the sample, in UTF-8, at most.
        seed: Of the choice.
    """
    kept: list[tuple[int, str]] = []  # the largest hash first
    size, limit = 0, 1 << 64
    for text in texts:
        content = text.encode()
        digest = xxh64_intdigest(content, seed)
        if digest < limit:
            heapq.heappush(kept, (-digest, text))
            size += len(content)
        while size > num_bytes and len(kept) > 1:
            negative, dropped = heapq.heappop(kept)
            limit = -negative  # or it would depend on the order what fits
            size -= len(dropped.encode())
    return [text for _, text in sorted(kept, reverse=True)]


def word_splitter(*, split_digits: bool = True) -> pre_tokenizers.Split:
    """What cuts a text into words; see above."""
    others = r"[\p{L}\p{M}]+|[^\S ]+|"
    others += r"[^\s\p{L}\p{M}\p{N}]+" if split_digits else r"\p{N}+|[^\s\p{L}\p{M}\p{N}]+"
    pattern = rf" *(?:{others})| +"
    return pre_tokenizers.Split(
        Regex(rf"\p{{N}}|{pattern}" if split_digits else pattern), behavior="isolated"
    )


def train(
    texts: Iterable[str],
    vocab_size: int,
    *,
    kind: Kind = "bpe",
    symbols: Sequence[str] = (),
    split_digits: bool = True,
    character_coverage: float = 0.9995,
) -> Model:
    """Train a SentencePiece model; the same texts, in any order, give the same.

    Args:
        texts: All of them are used.
        vocab_size: Pieces in all: special tokens, symbols, 256 bytes, characters, and what is
            made of these.
        kind: How pieces are found and put together.
        symbols: Texts that always are one piece, such as the marks of a chat.
        split_digits: Whether each digit is a piece.
        character_coverage: Share of the texts whose characters get pieces; others become bytes.

    Raises:
        ValueError: The texts and the settings do not fit each other.
    """
    check_symbols(symbols)
    words = count_words(texts, symbols, word_splitter(split_digits=split_digits))
    if not words:
        raise ValueError("there are no texts to train a tokenizer on; check the inputs")
    unk_id, bos_id, eos_id, pad_id = range(len(SPECIAL_TOKENS))
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(words),
            input_format="tsv",
            model_writer=written,
            model_type=kind,
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            user_defined_symbols=list(symbols),
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_by_whitespace=False,  # the words are split already
            split_by_unicode_script=False,
            split_by_number=False,
            max_sentence_length=4 * MAX_WORD,
            train_extremely_large_corpus=sum(map(len, words)) > 1 << 29,
            unk_id=unk_id,
            bos_id=bos_id,
            eos_id=eos_id,
            pad_id=pad_id,
            unk_surface=SPECIAL_TOKENS[unk_id],
            num_threads=NUM_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(_explain(str(error), vocab_size)) from error
    return _finish(sentencepiece_model_pb2.ModelProto.FromString(written.getvalue()))


def count_words(
    texts: Iterable[str], symbols: Sequence[str], splitter: pre_tokenizers.PreTokenizer
) -> dict[str, int]:
    """How often the trainer shall see each word of some texts, in order of the words."""
    counts: Counter[str] = Counter()
    pattern = re.compile("|".join(map(re.escape, sorted(symbols, key=len, reverse=True))))
    for text in texts:
        for part in pattern.split(text) if symbols else [text]:
            counts.update(word for word, _ in splitter.pre_tokenize_str(part))
    return {word: counts[word] for word in sorted(counts) if not _NOT_FOR_TRAINER.search(word)}


def check_symbols(symbols: Sequence[str]) -> None:
    """Make sure that symbols can be pieces.

    Raises:
        ValueError: Some cannot.
    """
    for symbol in symbols:
        if not symbol or any(map(str.isspace, symbol)) or _NOT_FOR_TRAINER.search(symbol):
            raise ValueError(f"symbol {symbol!r} is empty or holds white space; choose another")
        if symbol in SPECIAL_TOKENS or re.fullmatch("<0x[0-9A-F]{2}>", symbol) or len(symbol) == 1:
            raise ValueError(f"symbol {symbol!r} is a piece of its own already; leave it out")
        if symbols.count(symbol) > 1:
            raise ValueError(f"symbol {symbol!r} is given twice; leave one out")


def check_agreement(first: Tokenizer, second: Tokenizer, texts: Iterable[str]) -> int:
    """Make sure that two tokenizers give the same ids, and that these decode to the text.

    Args:
        first: A tokenizer.
        second: Another one.
        texts: To try; see also `difficult_texts`.

    Returns:
        Number of tokens that were compared.

    Raises:
        ValueError: They differ, or a text is not got back.
    """
    num_tokens = 0
    if first.vocabulary() != second.vocabulary():
        raise ValueError(f"{first.name} and {second.name} have different vocabularies")
    for text in texts:
        ids, others = (tokenizer.encode_batch([text])[0] for tokenizer in (first, second))
        if ids != others:
            pairs = enumerate(zip(ids, others, strict=False))
            place = next((k for k, (a, b) in pairs if a != b), min(len(ids), len(others)))
            start = max(len(first.decode(ids[:place])) - 20, 0)
            raise ValueError(
                f"{first.name} and {second.name} give different ids for a text of {len(text):,} "
                f"characters, near {text[start : start + 60]!r}"
            )
        for tokenizer in (first, second):
            if tokenizer.decode(ids) != text:
                raise ValueError(
                    f"{tokenizer.name} does not give back a text of {len(text):,} characters "
                    f"that begins with {text[:60]!r}"
                )
        num_tokens += len(ids)
    return num_tokens


def difficult_texts(symbols: Sequence[str]) -> Iterator[str]:
    """What tokenizers easily lose or take differently, symbols side by side included."""
    yield from DIFFICULT_TEXTS
    for symbol in symbols:
        yield from (f"{symbol}", f"a{symbol}b", f" {symbol} \n{symbol}", symbol[:-1], symbol[1:])
    for left, right in product(symbols, repeat=2):
        for overlap in range(min(len(left), len(right))):
            if left.endswith(right[:overlap]):
                yield left + right[overlap:]


def _lines(words: dict[str, int]) -> Iterator[str]:
    for word, count in words.items():
        for start in range(0, len(word), MAX_WORD):
            yield f"{word[start : start + MAX_WORD].translate(_TO_TRAINER)}\t{count}"


def _finish(model: Model) -> Model:
    model.normalizer_spec.escape_whitespaces = False
    for piece in model.pieces:
        if piece.type == piece.NORMAL:
            piece.piece = piece.piece.translate(_FROM_TRAINER)
            if model.trainer_spec.model_type == model.trainer_spec.UNIGRAM:
                piece.score = round(piece.score * SCORE_STEPS) / SCORE_STEPS
    return model


def _explain(error: str, vocab_size: int) -> str:
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", error):
        return (
            f"--vocab-size {vocab_size} is too small: special tokens, symbols, bytes and the "
            f"characters of the texts are {found[1]} pieces; set --vocab-size above {found[1]} "
            "or lower --character-coverage"
        )
    if found := re.search(r"set it to a value <= (\d+)", error):
        return (
            f"--vocab-size {vocab_size} is too large for these texts; set --vocab-size to "
            f"{found[1]} at most or give more text"
        )
    return f"SentencePiece cannot train with --vocab-size {vocab_size}: {error}"

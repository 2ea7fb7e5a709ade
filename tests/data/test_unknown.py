"""What tokenizers do not know is found, whatever they make of it."""

import string
from collections.abc import Sequence
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from taidscale.corpus.in_memory import write_shards
from taidscale.data.counts import Counts
from taidscale.data.hugging_face_tokenizer import HuggingFaceTokenizer
from taidscale.data.tokenizer import load_tokenizer
from taidscale.data.unknown import NOTHING, Unknown, check_unknown, find_unknown

TEXT = "ab 吾輩は猫. x\ny"
RUNS = ("吾輩は猫", "\n")
CHARACTERS = [*string.ascii_letters, " ", "."]


def save(folder: Path, model: models.Model, **special: str) -> str:
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **special).save_pretrained(folder)
    return str(folder)


def numbered(symbols: Sequence[str]) -> dict[str, int]:
    return {symbol: number for number, symbol in enumerate(symbols)}


def save_characters(folder: Path, *, fuse: bool = True) -> str:
    """A token per ASCII letter, and `<unk>` for a run of all that is not, or each of it."""
    vocabulary = numbered(["<unk>", "<eos>", *CHARACTERS])
    model = models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=fuse)
    return save(folder, model, unk_token="<unk>", eos_token="<eos>")


def found(name: str, text: str = TEXT) -> Unknown:
    tokenizer = load_tokenizer(name)
    return find_unknown(tokenizer, text, tokenizer.encode_batch([text])[0])


def test_one_token_for_a_run_or_for_each_character(tmp_path: Path) -> None:
    assert found(save_characters(tmp_path / "fused")) == Unknown(2, RUNS)
    each = tuple("".join(RUNS))
    assert found(save_characters(tmp_path / "each", fuse=False)) == Unknown(len(each), each)


def test_text_that_becomes_no_token(tmp_path: Path) -> None:
    vocabulary = numbered(["<eos>", *CHARACTERS])
    silent = save(tmp_path / "a", models.BPE(vocab=vocabulary, merges=[]), eos_token="<eos>")
    assert load_tokenizer(silent).can_drop
    assert found(silent) == Unknown(0, RUNS)
    no_bytes = models.BPE(vocab=vocabulary, merges=[], byte_fallback=True)
    assert found(save(tmp_path / "b", no_bytes, eos_token="<eos>")) == Unknown(0, RUNS)
    few_bytes = Tokenizer(models.BPE(vocab=numbered(["<eos>", *CHARACTERS, "Ġ"]), merges=[]))
    few_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=few_bytes).save_pretrained(tmp_path / "c")
    unknown = found(str(tmp_path / "c"))
    assert set("".join(unknown.parts)) == set("".join(RUNS))


def test_unigram_word_pieces_and_a_slow_tokenizer(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0), *((character, -1.0) for character in CHARACTERS)]
    unigram = save(tmp_path / "u", models.Unigram(pieces, 0, False), unk_token="<unk>")
    assert found(unigram) == Unknown(2, RUNS)
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "known", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    slow = BertTokenizer(str(tmp_path / "vocab.txt"))
    slow.save_pretrained(tmp_path / "slow")
    fast = AutoTokenizer.from_pretrained(tmp_path / "slow")
    for hf in (slow, fast):
        tokenizer, text = HuggingFaceTokenizer("words", hf), "knowns 猫 odd"
        ids = tokenizer.encode_batch([text])[0]
        # A slow tokenizer does not say where in the text its tokens stand.
        parts = ("猫", "odd") if hf.is_fast else ("[UNK]", "[UNK]")
        assert find_unknown(tokenizer, text, ids) == Unknown(2, parts)


def test_sentencepiece(tmp_path: Path) -> None:
    with (tmp_path / "a.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["ab cd abcd", "dc ba"] * 20), model_writer=file,
            vocab_size=12, model_type="bpe", minloglevel=2,
        )  # fmt: skip
    assert found(str(tmp_path / "a.model"), "ab 猫犬 cd") == Unknown(1, ("猫犬",))


@pytest.mark.parametrize(
    "name", ["qwen2.5", "llm-jp-v2.2-50k", "sentencepiece/mistral-v1-32k.model"]
)
def test_bytes_know_everything(material: Path, name: str) -> None:
    tokenizer = str(material / "tokenizers" / name)
    assert not load_tokenizer(tokenizer).can_drop
    assert found(tokenizer, "".join(map(chr, range(1, 0x3000))) + "🗼か\u3099") == NOTHING


def test_shares() -> None:
    for unknown, allowed, says in ((10, 0.02, None), (11, 0.02, "does not know"), (0, 0, None)):
        counts = Counts(characters=10_000)
        counts.add_unknown(unknown, ["猫"] * unknown, "a.txt, line 1")
        warning = check_unknown(counts, "tok", allowed, "allow more")
        assert (warning is None) if says is None else says in str(warning)
    counts.add_unknown(201, ["犬" * 201], "b.txt, line 2")
    with pytest.raises(
        ValueError, match=r"tok does not .* 201 tokens, 2\.01%.*'犬{20}\.\.\.'.*more"
    ):
        check_unknown(counts, "tok", 0.02, "allow more")
    assert check_unknown(counts, "tok", 0.03, "") is not None


def test_texts_in_memory(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_characters(tmp_path / "tokenizer"))
    texts = ["known text. " * 20, TEXT]
    with pytest.raises(ValueError, match="set allow_unknown"):
        write_shards([TEXT], tokenizer, 4, tmp_path / "out")
    counts = write_shards(texts, tokenizer, 4, tmp_path / "out", allow_unknown=0.05).counts
    assert (counts.unknown_tokens, counts.unknown_characters) == (2, 5)
    assert counts.unknown_examples == ["text 2: '吾輩は猫'"]

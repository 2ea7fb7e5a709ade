"""Both libraries make the same ids of any text, and get the text back."""

import gzip
import json
import random

import pytest

from taidscale.corpus.convert_tokenizer import to_hugging_face
from taidscale.corpus.train_tokenizer import (
    SPECIAL_TOKENS,
    check_agreement,
    choose_sample,
    count_words,
    difficult_texts,
    train,
    word_splitter,
)
from taidscale.data.tokenizer import fingerprint, load_tokenizer

pytestmark = pytest.mark.slow

SYMBOLS = ["<|im_start|>", "<|im_end|>", "<|im_end|><|x|>", "the"]
SYLLABLES = ["ha", "lo", "mi", "re", "the", "ing", "st", "en", "ab", "ba", "a", "so"]
WORDS = ["".join(random.Random(k).choices(SYLLABLES, k=1 + k % 5)) for k in range(200)]
TEXTS = [
    *(" ".join(random.Random(k).choices(WORDS, k=50)) + ".\n\n" for k in range(20)),
    "The captain of the whale says: \u201cdon\u2019t!\u201d\n\n" * 3,
    "def f(x):\n        if x > 12:\n                return [x,  345]\n" * 3,
    "\u3000吾輩は猫である。名前はまだ無い。\n\u3000どこで生れたかとんと見当がつかぬ。\r\n" * 3,
    "----==== .... hahahaha   \t\t aaaa aaaaaa\n\n\n\n" * 3,
]


def save(folder, model, split_digits=True):
    splitter = word_splitter(split_digits=split_digits)
    to_hugging_face(model, splitter).save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    return load_tokenizer(str(folder)), load_tokenizer(str(folder / "tokenizer.model"))


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def both(kind, tmp_path_factory):
    model = train(TEXTS, 440, kind=kind, symbols=SYMBOLS)
    return save(tmp_path_factory.mktemp(kind), model)


def test_same_vocabulary(both):
    first, second = both
    assert first.vocabulary() == second.vocabulary()
    assert fingerprint(first.vocabulary()) == fingerprint(second.vocabulary())
    assert first.size == second.size == 440
    assert first.eos_id == second.eos_id == 2
    assert [first.vocabulary()[name] for name in SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert (first.hf.bos_token_id, first.hf.pad_token_id) == (1, 3)


def test_same_ids_and_lossless(both):
    assert check_agreement(*both, [*TEXTS, *difficult_texts(SYMBOLS)]) > 1000


def test_random_texts(both):
    """Few characters, so that pieces overlap in every way."""
    source = random.Random(0)
    alphabets = [
        "a ",
        "ah ",
        "-= .",
        " \n\t",
        "the ",
        "<|im_end>x",
        "0x<>AF",
        "。は猫\u3000名\n",
        "\u2581a \0é",
    ]
    texts = [
        "".join(source.choices(alphabet, k=source.randrange(1, 60)))
        for alphabet in alphabets for _ in range(200)
    ]  # fmt: skip
    check_agreement(*both, texts)


def test_a_text_makes_no_special_tokens(both):
    for tokenizer in both:
        (ids,) = tokenizer.encode_batch(["a</s><s><unk><pad><0x41>"])
        assert not {0, 1, 2, 3, tokenizer.vocabulary()["<0x41>"]} & {*ids}


def test_symbols_are_one_token(both):
    for tokenizer in both:
        (ids,) = tokenizer.encode_batch(["<|im_start|>a theory<|im_end|>"])
        assert [ids[0], ids[-1]] == [tokenizer.vocabulary()[s] for s in SYMBOLS[:2]]
        assert tokenizer.vocabulary()["the"] in ids


def test_a_cut_between_words_changes_nothing(both):
    """What makes it right that one library cuts and the other does not."""
    _, pieces = both
    splitter = word_splitter()
    for text in TEXTS:
        words = [word for word, _ in splitter.pre_tokenize_str(text)]
        assert "".join(words) == text
        apart = [i for ids in pieces.encode_batch(words) for i in ids]
        assert pieces.encode_batch([text])[0] == apart or any(s in text for s in SYMBOLS)


def test_digits(tmp_path, kind):
    texts = ["in 1984 and 1984, 19 84 " * 20, *TEXTS]
    _, split = save(tmp_path / "split", train(texts, 420, kind=kind))
    _, kept = save(
        tmp_path / "kept", train(texts, 420, kind=kind, split_digits=False), split_digits=False
    )
    multiple = [[p for p in t.vocabulary() if sum(map(str.isdigit, p)) > 1 and "<" not in p]
                for t in (split, kept)]  # fmt: skip
    assert multiple[0] == []
    assert multiple[1]
    check_agreement(*save(tmp_path / "again", train(texts, 420, kind=kind)), texts)


def test_order_does_not_matter(kind):
    one, two = (train(texts, 400, kind=kind).SerializeToString() for texts in (TEXTS, TEXTS[::-1]))
    assert one == two


def test_words():
    def words(text, **settings):
        return [word for word, _ in word_splitter(**settings).pre_tokenize_str(text)]

    assert words("  if a1 == 12:\n\n  b") == [
        "  if", " a", "1", " ==", " ", "1", "2", ":", "\n\n", "  b"
    ]  # fmt: skip
    assert words(" a12 34", split_digits=False) == [" a", "12", " 34"]
    assert words("猫、犬\u3000鳥 ") == ["猫", "、", "犬", "\u3000", "鳥", " "]
    counts = count_words(["a a<s>b\u2581c a", "\0"], ["<s>"], word_splitter())
    assert counts == {" a": 2, "a": 1, "b": 1, "c": 1}


def test_sample():
    texts = [f"text {k}" for k in range(100)]
    chosen = choose_sample(texts, 200, seed=1)
    assert sum(map(len, chosen)) <= 200 < sum(map(len, chosen)) + 8
    assert choose_sample(texts[::-1], 200, seed=1) == chosen
    assert choose_sample(texts, 200, seed=2) != chosen
    assert sorted(choose_sample(texts, 10**6)) == sorted(texts)
    assert choose_sample(["x" * 99], 10) == ["x" * 99]


@pytest.mark.parametrize(
    ("vocab_size", "settings", "says"),
    [
        (300, {}, r"--vocab-size 300 is too small: .* set --vocab-size above \d+"),
        (9999, {}, r"--vocab-size 9999 is too large .* set --vocab-size to \d+ at most"),
        (400, {"symbols": ["<s>"]}, "symbol '<s>' is a piece of its own already"),
        (400, {"symbols": ["a b"]}, "symbol 'a b' is empty or holds white space"),
        (400, {"symbols": ["<a>", "<a>"]}, "symbol '<a>' is given twice"),
    ],
)
def test_refuses(kind, vocab_size, settings, says):
    with pytest.raises(ValueError, match=says):
        train(TEXTS, vocab_size, kind=kind, **settings)


def test_refuses_nothing(kind):
    with pytest.raises(ValueError, match="there are no texts"):
        train(["\0", ""], 400, kind=kind)


def test_disagreement_is_found(both, tmp_path, tiny_tokenizer_folder, kind):
    first, second = both
    with pytest.raises(ValueError, match="have different vocabularies"):
        check_agreement(first, load_tokenizer(str(tiny_tokenizer_folder)), ["a"])
    # Without the words' boundaries, and with another order of the merges or scores.
    path = tmp_path / "tokenizer.json"
    wrong = json.loads(first.hf.backend_tokenizer.to_str())
    if kind == "bpe":
        wrong["model"]["merges"].reverse()
    else:
        for entry in wrong["model"]["vocab"][260:]:
            entry[1] = -1.0 / len(entry[0])
    path.write_text(json.dumps(wrong))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    with pytest.raises(ValueError, match="give different ids for a text"):
        check_agreement(load_tokenizer(str(tmp_path)), second, TEXTS)


def test_real_corpora(both, kind, real_material, tmp_path):
    """Every document, up to books of a million characters; training sees a part of them."""
    corpora = real_material / "corpora"
    with gzip.open(corpora / "ja" / "aozora.jsonl.gz", "rt") as file:
        texts = [json.loads(line)["text"] for line in file]
    texts += [json.loads(x)["text"] for x in (corpora / "en/c4_demo.jsonl").open()]
    texts += [path.read_text() for path in sorted((corpora / "en").rglob("*.txt"))]
    part = choose_sample([text for text in texts if len(text) < 50_000], 1_500_000)
    tokenizers = save(tmp_path, train(part, 8000, kind=kind))
    assert len(texts) > 700
    assert check_agreement(*tokenizers, texts) > 5_000_000

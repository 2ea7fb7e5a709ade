"""Do two tokenizers with the same entries give a text the same ids?"""

from itertools import zip_longest

from taidscale.data.tokenizer import Tokenizer

TEXTS = (
    "The quick brown fox didn't jump over the lazy dog; it WASN'T there (yet)!",
    "In 1969, 3.14159 and 12345678 were numbers, 50% of $1,234.56 was $617.28.",
    "def f(x):\n    if x > 0:\n        return [x ** 2, 'a_b']\n\n\treturn None  # done\n",
    "First line\r\nsecond line\n\n\nthird  with  two   and three spaces",
    "https://example.org/a/b?c=d&e=f#g user.name@example.org C:\\path\\file.txt",
    '{"key": [1, 2.5e-3, null], "other": "\\"quoted\\""} <a href=\'x\'>y</a>',
    "Don't, don’t, DON'T; we'll, they've, I'm, it's... “quoted” — and–dashed…",
    "naïve café, Ångström, Straße, ÆØÅ, İstanbul, ﬁne, ½ of x² is №1",
    "cafe\u0301 and A\u030angstro\u0308m, written with combining marks",
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "ｶﾞｷﾞｸﾞ、ＡＢＣ１２３！　「東京都」は2024年に㍿と㌔を…〜ー",
    "カ\u3099ラス は 平仮名、カタカナ、漢字を使う。",
    "我爱自然语言处理，它很有趣！价格是１２３元。",
    "안녕하세요, 세계! 오늘은 날씨가 좋네요.",
    "Привет, мир! Съешь ещё этих мягких французских булок.",
    "Γειά σου Κόσμε. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "مرحبا بالعالم، كيف حالك اليوم؟ שלום עולם",
    "नमस्ते दुनिया, आप कैसे हैं? สวัสดีชาวโลก",
    "😀 👩‍👩‍👧‍👦 🇯🇵 👍🏽 ∑∫√ ≤ ≠ α→β ①②③ ♪",
    "no\u00a0break, zero\u200bwidth, soft\u00adhyphen, narrow\u202fspace, \ufeffmark",
)
"""As people write: words, numbers, code and white space, and what normalizers change.

None begins with a space: the older and the newer form of Llama's tokenizer.json differ there, and
almost nowhere else.
"""


def compare_ids(teacher: Tokenizer, student: Tokenizer, size: int) -> list[str]:
    """Find out whether the student's ids of a text are those that the teacher was taught on.

    Merges and scores of pieces must be equal. Whether another normalizer or pre-tokenizer changes
    anything cannot be seen by how it is written, so that of these, and of tokenizers of different
    kinds, only a text with other ids counts; there may be one that is not among `TEXTS`.

    Args:
        teacher: its tokenizer, called "there".
        student: its tokenizer, with the same entries below `size`.
        size: ids that mean the same in both.

    Returns:
        What is written differently, and gives all `TEXTS` the same ids.

    Raises:
        ValueError: a merge, a score or the ids of a text differ.
    """
    ours, theirs = student.segmentation(), teacher.segmentation()
    ordinary = set(range(size)) - student.reserved_ids - teacher.reserved_ids
    found = ours.difference(theirs, ordinary) or _differing_text(teacher, student)
    if found is not None:
        raise ValueError(
            f"the tokenizers of the teacher ({teacher.name}) and the student ({student.name}) "
            f"have the same entries and cut texts in other places: {found}. The teacher does not "
            "know the student's pieces: choose models whose tokenizers agree, or set "
            "student.tokenizer to the teacher's and prepare the data with it"
        )
    names = sorted(ours.settings.keys() | theirs.settings.keys())
    other = [name for name in names if ours.settings.get(name) != theirs.settings.get(name)]
    return other if ours.kind == theirs.kind else [f"kind ({theirs.kind}, {ours.kind})"]


def _differing_text(teacher: Tokenizer, student: Tokenizer) -> str | None:
    encoded = zip(*(each.encode_batch([*TEXTS]) for each in (teacher, student)), strict=True)
    for text, both in zip(TEXTS, encoded, strict=True):
        for place, pair in enumerate(zip_longest(*both)):
            there, here = ("absent" if index is None else f"id {index}" for index in pair)
            if there != here:
                return f"token {place} of {text!r} is {there} there, {here} here"
    return None

"""Texts that every machine has: Python's documentation, and Japanese from a page of sentences."""

import gzip
import json
import random
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from taidscale.commands.work.quickstart import documents

HERE = Path(__file__).parent
NUM_WEB_PAGES = 300
NUM_JAPANESE = 437
BOOKS = ("austen-emma", "carroll-alice", "chesterton-brown", "melville-moby_dick")
WIKIPEDIA = ("wikitext2-valid", "wikitext2-test")
STORIES = ("tinystories-train-sample", "tinystories-valid-sample")
HELD_OUT_EVERY = 20


@cache
def english() -> tuple[str, ...]:
    """Parts of the documentation."""
    return tuple(documents())


def japanese() -> list[tuple[str, str]]:
    """Titles and texts: sentences in random order, in paragraphs as in a book."""
    sentences = (HERE / "japanese.txt").read_text(encoding="utf-8").splitlines()
    chance = random.Random(0)
    made = []
    for number in range(1, NUM_JAPANESE + 1):
        paragraphs = [
            "\u3000" + "".join(chance.choices(sentences, k=chance.randint(1, 8)))
            for _ in range(chance.randint(2, 30))
        ]
        made.append((f"文章　第{number}", "\n".join(paragraphs)))
    return made


def write_corpora(folder: Path) -> None:
    """Files with the names, formats and numbers of documents of the real corpora."""
    pages = english()
    (folder / "en" / "gutenberg").mkdir(parents=True)
    (folder / "ja").mkdir()
    _write_lines(folder / "en" / "c4_demo.jsonl", ({"text": t} for t in pages[:NUM_WEB_PAGES]))
    for number, name in enumerate(BOOKS):
        book = "\n\n\n".join(pages[number::40])
        (folder / "en" / "gutenberg" / f"{name}.txt").write_text(book, encoding="utf-8")
    for number, name in enumerate(WIKIPEDIA):
        articles = " \n = Page = \n \n ".join(pages[number + 10 :: 40])
        (folder / "en" / f"{name}.txt").write_text(articles, encoding="utf-8")
    stories = [" ".join(text.split()) for text in pages]
    held_out = stories[::HELD_OUT_EVERY]
    train = [text for number, text in enumerate(stories) if number % HELD_OUT_EVERY]
    for name, texts in zip(STORIES, (train, held_out), strict=True):
        (folder / "en" / f"{name}.txt").write_text("\n\n".join(texts), encoding="utf-8")
    works = [
        json.dumps({"author": "見本", "title": title, "text": text}, ensure_ascii=False)
        for title, text in japanese()
    ]
    packed = gzip.compress("".join(line + "\n" for line in works).encode(), mtime=0)
    (folder / "ja" / "aozora.jsonl.gz").write_bytes(packed)


def write_tasks(folder: Path) -> None:
    """Questions with choices, and passages with their last word."""
    folder.mkdir()
    sums = [(a, b) for a in range(1, 6) for b in range(1, 6)]
    _write_lines(
        folder / "arc_easy.jsonl",
        (
            {
                "query": f"Question: What is the sum of {a} and {b}?",
                "choices": [f"the number {a + b + k - (a + b) % 4}" for k in range(4)],
                "gold": (a + b) % 4,
            }
            for a, b in sums
        ),
    )
    sentences = [text.partition(".")[0].split() for text in english()]
    _write_lines(
        folder / "lambada_openai.jsonl",
        (
            {"context": " ".join(words[:-1]), "continuation": words[-1]}
            for words in sentences[:50]
            if len(words) > 1
        ),
    )


def _write_lines(path: Path, entries: Iterable[object]) -> None:
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    path.write_text(text, encoding="utf-8")

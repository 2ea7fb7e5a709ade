"""What `taidscale tokenizer` does: it trains, compares both libraries, writes and measures."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from time import monotonic

from tqdm import tqdm

from taidscale.corpus.convert_tokenizer import to_hugging_face
from taidscale.corpus.documents import Reading, Sources
from taidscale.corpus.parts import free_folder
from taidscale.corpus.train_tokenizer import (
    check_agreement,
    check_symbols,
    choose_sample,
    difficult_texts,
    train,
    word_splitter,
)
from taidscale.data.counts import Counts, stop
from taidscale.data.tokenizer import Tokenizer, load_tokenizer
from taidscale.data.unknown import check_unknown, find_unknown, unknown_share
from taidscale.durable import folder_written_aside

MEGABYTE = 10**6
CHECKED_BYTES = 5 * MEGABYTE
HELD_OUT_SHARE = 100


def train_tokenizer(options: Namespace) -> None:
    """Read, train, check, write, and print how well it does."""
    folder = free_folder(options.out)
    check_symbols(options.symbols)
    rival = load_tokenizer(options.compare) if options.compare else None
    start = monotonic()
    texts = read_sample(options)
    num_held_out = len(texts) // HELD_OUT_SHARE
    training, held_out = texts[num_held_out:], texts[:num_held_out]
    print(f"{monotonic() - start:7.1f} s  training on {len(training):,} documents", flush=True)
    split_digits = not options.keep_numbers
    model = train(
        training,
        options.vocab_size,
        kind=options.kind,
        symbols=options.symbols,
        split_digits=split_digits,
        character_coverage=options.character_coverage,
    )
    print(f"{monotonic() - start:7.1f} s  comparing both libraries", flush=True)
    with folder_written_aside(folder) as partial:
        to_hugging_face(model, word_splitter(split_digits=split_digits)).save_pretrained(partial)
        (partial / "tokenizer.model").write_bytes(model.SerializeToString())
        tokenizer = load_tokenizer(str(partial))
        checked = [*difficult_texts(options.symbols), *head(texts, CHECKED_BYTES)]
        num_tokens = check_agreement(
            tokenizer, load_tokenizer(str(partial / "tokenizer.model")), checked
        )
    seconds = monotonic() - start
    print(
        f"{seconds:7.1f} s  the same {num_tokens:,} tokens for {len(checked):,} texts, and "
        "every text got back"
    )
    measured = head(held_out or training, CHECKED_BYTES)
    print(f"\non {len(measured):,} {'held-out' if held_out else 'TRAINING'} documents")
    print_table({options.out: tokenizer} | ({options.compare: rival} if rival else {}), measured)


def read_sample(options: Namespace) -> list[str]:
    """The documents that all is done with, in random order."""
    counts = Counts()
    split_on = options.split_on
    reading = Reading(
        text_column=options.text_column,
        split_on=None if split_on is None else split_on.replace("\\n", "\n"),
        split=options.split,
        max_documents=options.max_documents,
    )
    documents = Sources(options.inputs, reading).texts(
        stop if options.on_error == "stop" else counts.skip
    )
    with tqdm(documents, unit=" documents") as bar:
        texts = choose_sample(bar, int(options.sample_mb * MEGABYTE), options.seed)
    for reason, number in counts.skipped.items():
        print(f"{number:,} skipped: {reason}")
    return texts


def head(texts: Sequence[str], num_bytes: int) -> list[str]:
    """The first texts of so many bytes together, one at least."""
    chosen = []
    for text in texts:
        chosen.append(text)
        num_bytes -= len(text.encode())
        if num_bytes < 0:
            break
    return chosen


def print_table(tokenizers: dict[str, Tokenizer], texts: list[str]) -> None:
    """How many tokens each makes of some texts, what it loses of them, and how fast."""
    num_bytes, num_characters = sum(len(t.encode()) for t in texts), sum(map(len, texts))
    width = max(len("tokenizer"), *map(len, tokenizers))
    print(
        f"{'tokenizer':{width}}{'vocabulary':>12}{'bytes/token':>13}{'tokens/character':>18}"
        f"{'unknown':>9}{'MB/s':>7}"
    )
    for name, tokenizer in tokenizers.items():
        start = monotonic()
        encoded = tokenizer.encode_batch(texts)
        speed = num_bytes / MEGABYTE / (monotonic() - start)
        num_tokens = sum(map(len, encoded))
        counts = Counts(characters=num_characters)
        for number, (text, ids) in enumerate(zip(texts, encoded, strict=True), 1):
            unknown = find_unknown(tokenizer, text, ids)
            counts.add_unknown(unknown.num_tokens, unknown.parts, f"text {number}")
        print(
            f"{name:{width}}{tokenizer.size:>12,}{num_bytes / max(num_tokens, 1):>13.3f}"
            f"{num_tokens / num_characters:>18.3f}{unknown_share(counts):>9.2%}{speed:>7.1f}"
        )
        if warning := check_unknown(counts, name, 1.0, ""):
            print(f"warning: {warning}", file=sys.stderr)

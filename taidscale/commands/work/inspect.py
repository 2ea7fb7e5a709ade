"""What `taidscale inspect` does: counts, lengths and samples of shards, printed and checked."""

import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from streaming import LocalDataset
from tqdm import tqdm

from taidscale.config.data import StreamConfig
from taidscale.config.load import load_config
from taidscale.data.check_shards import check_shards
from taidscale.data.contents import (
    Contents,
    decode_pieces,
    evenly_spaced,
    length_histogram,
    mark_spans,
    read_contents,
    read_sample,
)
from taidscale.data.draw_lengths import Panel, draw_lengths, import_pyplot
from taidscale.data.manifest import Manifest, check_hashes, check_manifest, read_manifest
from taidscale.data.manifest_table import print_table
from taidscale.data.sample_columns import TOKENS
from taidscale.data.tokenizer import fingerprint, load_tokenizer
from taidscale.models.families import read_model_config

BAR = 40  # characters
GRAY, RESET = "\033[90m", "\033[0m"


@dataclass(frozen=True)
class Stream:
    """A folder of shards."""

    name: str
    folder: str
    mix: str
    """Its part in the mix of a run; empty without a run."""
    manifest: "Manifest"

    @property
    def details(self) -> str:
        """What a drawing says of it."""
        return f"{self.manifest.packing}, seq_len {self.manifest.seq_len:,}"


def inspect(options: Namespace) -> list[str]:
    """Print everything.

    Returns:
        What does not fit.
    """
    if options.draw:
        import_pyplot()  # which may be missing, before minutes of reading
    streams = [stream for name in options.data for stream in find_streams(name)]
    print_table([(stream.name, stream.mix, stream.manifest) for stream in streams])
    if options.verify and (problems := verify(streams)):
        return problems  # what is damaged may not be readable
    problems, contents = [], []
    for stream in streams:
        num_samples = min(stream.manifest.num_samples, options.max_samples)
        with tqdm(total=num_samples, unit=" samples", desc=stream.name, leave=False) as bar:
            read = read_contents(stream.folder, stream.manifest, options.max_samples, bar.update)
        contents.append(read)
        problems += [f"{stream.folder}: {problem}" for problem in read.problems]
        print_lengths(stream, read)
        if options.samples:
            problems += print_samples(stream, options)
    pairs = list(zip(streams, contents, strict=True))
    if options.model:
        problems += compare_with_model(pairs, options.model)
    if options.draw:
        panels = [Panel(s.name, f"{s.details}, {share_read(s, c)}", c.lengths) for s, c in pairs]
        draw_lengths(panels, options.draw)
        print(f"\ndrawn: {options.draw}")
    return problems


def find_streams(name: str) -> list[Stream]:
    """The folder, or those of a run's configuration; all of their shards are there."""
    found, seq_len = [(name, name, "")], None
    if Path(name).suffix in (".yaml", ".yml"):
        config = load_config(name)
        seq_len, total = config.seq_len, sum(s.proportion or 0.0 for s in config.data.streams)
        found = [(s.stream_name, s.local, mix(s, total)) for s in config.data.streams]
    streams = []
    for label, folder, part in found:
        manifest = read_manifest(folder)
        check_shards(
            folder,
            seq_len=seq_len or manifest.seq_len,
            fingerprint=None,
            vocab_size=manifest.vocab_size,
        )
        streams.append(Stream(label, folder, part, manifest))
    return streams


def mix(stream: "StreamConfig", total: float) -> str:
    """A stream's part in the mix of a run."""
    if stream.proportion is not None:
        return f"{stream.proportion / total:.1%}"
    if stream.repeat is not None:
        return f"repeat {stream.repeat:g}"
    return "by size" if stream.choose is None else f"choose {stream.choose:,}"


# --- what the samples hold ------------------------------------------------------------


def print_lengths(stream: Stream, contents: "Contents") -> None:
    """A histogram of letters."""
    num_pieces = f"{len(contents.lengths):,} pieces of documents"
    print(f"\n{stream.name}: {num_pieces}, {share_read(stream, contents)}")
    bins = length_histogram(contents.lengths)
    tallest = max(pieces for _, pieces, _ in bins)
    print(f"{'tokens':>19}  {'share of the pieces':{BAR + 8}} of their tokens")
    for name, pieces, tokens in bins[int(contents.lengths.min()).bit_length() - 1 :]:
        bar = "█" * round(BAR * pieces / tallest) or "▏" * (pieces > 0)
        print(f"{name:>19}  {f'{bar} {pieces:.1f} %':{BAR + 8}} {tokens:>6.1f} %")


def share_read(stream: Stream, contents: "Contents") -> str:
    """How much was read."""
    total = stream.manifest.num_samples
    if contents.num_read == total:
        return f"all {total:,} samples read"
    return f"{contents.num_read:,} of {total:,} samples read ({contents.num_read / total:.1%})"


def print_samples(stream: Stream, options: Namespace) -> list[str]:
    """Some samples as text, if a tokenizer is here."""
    manifest = stream.manifest
    try:
        tokenizer = load_tokenizer(options.tokenizer or manifest.tokenizer)
    except ValueError as error:
        if options.tokenizer:
            raise
        print(f"no samples shown: {error}; choose the tokenizer with --tokenizer")
        return []
    if fingerprint(tokenizer.vocabulary()) != manifest.fingerprint:
        return [f"{stream.folder} was made with another tokenizer than {tokenizer.name}"]
    samples = LocalDataset(stream.folder)
    marks = (GRAY, RESET) if sys.stdout.isatty() else ("[[", "]]")
    for number in evenly_spaced(manifest.num_samples, options.samples):
        sample = read_sample(samples, number)
        print(f"\n{stream.name}, sample {number:,} of {manifest.num_samples:,}")
        num_padding = len(sample[TOKENS])
        for length, spans in decode_pieces(sample, tokenizer):
            print(f"  ── {length:,} tokens")
            text = mark_spans(spans, options.characters, marks)
            print("  │ " + text.replace("\n", "\n  │ "))
            num_padding -= length
        if num_padding > 0:
            print(f"  <padding {num_padding:,}>")
    return []


def compare_with_model(pairs: "list[tuple[Stream, Contents]]", model: str) -> list[str]:
    """Whether the ids of the data mean to the model what they meant to the tokenizer."""
    folder = Path(model).absolute()
    num_rows = int(read_model_config(folder, "--model").vocab_size)
    expected = fingerprint(load_tokenizer(str(folder)).vocabulary())
    print(f"\n{model}: {num_rows:,} embeddings")
    problems = []
    for stream, contents in pairs:
        m, verdict = stream.manifest, "ok: the same tokenizer"
        try:
            check_manifest(
                m, stream.folder, seq_len=m.seq_len, fingerprint=expected, vocab_size=num_rows
            )
        except ValueError as error:
            problems.append(str(error))
            verdict = "does not fit"
        print(f"{stream.name}: {verdict}; largest id read {contents.largest_id:,}")
    return problems


def verify(streams: list[Stream]) -> list[str]:
    """Whether every shard is as it was written."""
    problems = []
    for stream in streams:
        num_bytes = sum(shard.bytes for shard in stream.manifest.shards)
        with tqdm(total=num_bytes, unit="B", unit_scale=True, desc=stream.name) as bar:
            try:
                check_hashes(stream.folder, bar.update)
                print(f"{stream.name}: all {len(stream.manifest.shards):,} shards are whole")
            except ValueError as error:
                problems.append(f"{stream.folder}: {error}")
    return problems

"""What `taidscale prepare` does: it prepares the data, shows how far it is, and what was made."""

import sys
from argparse import Namespace
from time import monotonic

from pydantic import ValidationError
from tqdm import tqdm

from taidscale.corpus.documents import Reading
from taidscale.corpus.encoding import EncodingSettings
from taidscale.corpus.part_maker import Progress
from taidscale.corpus.prepare import prepare
from taidscale.data.manifest import Manifest
from taidscale.data.unknown import check_unknown, describe_unknown


def run(arguments: Namespace) -> None:
    """Prepare, and print what was done."""
    given = vars(arguments) | {"block_bytes": arguments.part_mb << 20}
    if arguments.split_on is not None:
        given["split_on"] = arguments.split_on.replace("\\n", "\n")
    try:
        reading = Reading(**{name: given[name] for name in Reading.model_fields})
        encoding = EncodingSettings(**{name: given[name] for name in EncodingSettings.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("block_bytes", "part_mb").replace("_", "-")
        raise ValueError(f"--{name}: {first['msg']}, not {first['input']!r}") from None
    start = monotonic()
    done = {"documents": 0, "tokens": 0}

    def rates() -> dict[str, float]:
        return {name: number / (monotonic() - start) for name, number in done.items()}

    with tqdm(unit="B", unit_scale=True, unit_divisor=1024) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.bytes_total
            known = progress.bytes_total is not None
            step = progress.bytes_done - bar.n if known else progress.counts.raw_bytes
            if progress.is_new:
                done["documents"] += progress.counts.documents
                done["tokens"] += progress.counts.tokens
                text = ", ".join(f"{rate:,.0f} {name}/s" for name, rate in rates().items())
                bar.set_postfix_str(text, refresh=False)
            else:  # what was done before says nothing about the time that is left
                bar.initial += step
            bar.update(step)

        manifest = prepare(
            arguments.inputs,
            arguments.out,
            reading,
            encoding,
            seq_len=arguments.seq_len,
            packing=arguments.packing,
            separator_id=arguments.separator_id,
            bos=arguments.bos,
            num_workers=arguments.workers,
            scratch=arguments.scratch,
            allow_unknown=arguments.allow_unknown,
            progress=show,
        )
    report(manifest, rates()["tokens"], arguments.out)
    if warning := check_unknown(manifest.counts, manifest.tokenizer, 1.0, ""):
        print(f"warning: {warning}", file=sys.stderr)


def report(manifest: Manifest, rate: float, out: str) -> None:
    """Print what is in the shards and what is not."""
    counts = manifest.counts
    places = manifest.num_samples * (manifest.seq_len + 1)
    figures = {
        "documents": f"{manifest.num_documents:,} ({counts.empty:,} empty ones skipped)",
        "tokens": f"{manifest.num_tokens:,}",
        "unknown": describe_unknown(counts),
        "trained on": f"{manifest.num_weighted_tokens / manifest.num_tokens:.1%} of the tokens",
        "samples": f"{manifest.num_samples:,} of {manifest.seq_len:,} + 1 tokens",
        "padding": f"{manifest.num_padding_tokens / places:.2%}",
        "cut documents": f"{manifest.num_split_documents:,}, longer than a sample",
        "dropped tokens": f"{manifest.num_dropped_tokens:,}",
        "read": f"{counts.raw_bytes:,} bytes",
        "bytes": f"{sum(shard.bytes for shard in manifest.shards):,}",
        "speed": f"{rate:,.0f} tokens/s",
    }
    if not manifest.has_weights:
        del figures["trained on"]
    if manifest.packing == "concatenate":
        del figures["padding"], figures["cut documents"]
    for kind in ("filtered", "skipped"):
        for reason, number in getattr(counts, kind).items():
            figures[f"{kind}: {reason}"] = f"{number:,}"
    width = max(map(len, figures)) + 2
    for name, figure in figures.items():
        print(f"{name:{width}}{figure}")
    if counts.places:
        print("skipped first:")
        for place in counts.places:
            print(f"  {place}")
    for remark in manifest.remarks:
        print(f"note: {remark}")
    print(f"{'path':{width}}{out}")

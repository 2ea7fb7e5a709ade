"""What manifests say of their shards, side by side."""

from collections.abc import Sequence

from taidscale.data.manifest import Manifest
from taidscale.data.unknown import check_unknown, unknown_share


def print_table(streams: Sequence[tuple[str, str, Manifest]]) -> None:
    """A row per stream, and what was left out when it was prepared.

    Args:
        streams: Name, part in the mix of a run (empty without one), and manifest of each.
    """
    rows = [_row(*stream) for stream in streams]
    columns = [name for name in rows[0] if any(cells[name] for cells in rows)]
    widths = {name: max(len(name), *(len(cells[name]) for cells in rows)) for name in columns}

    def line(cells: dict[str, str]) -> str:
        first, *others = columns
        right = "".join(f"  {cells[name]:>{widths[name]}}" for name in others)
        return f"{cells[first]:<{widths[first]}}{right}"

    print(line({name: name for name in columns}))
    for cells in rows:
        print(line(cells))
    for name, _, manifest in streams:
        _print_remarks(name, manifest)


def _print_remarks(name: str, manifest: Manifest) -> None:
    counts = manifest.counts
    for what, numbers in (("skipped", counts.skipped), ("filtered", counts.filtered)):
        if numbers:
            reasons = ", ".join(f"{reason} {number:,}" for reason, number in numbers.items())
            print(f"{name}: {what}: {reasons}")
    for remark in manifest.remarks:
        print(f"{name}: {remark}")
    if warning := check_unknown(counts, manifest.tokenizer, 1.0, ""):
        print(f"{name}: {warning}")


def _row(name: str, mix: str, m: Manifest) -> dict[str, str]:
    """A stream's cells by column; empty where there is nothing to say."""
    places = m.num_samples * (m.seq_len + 1)
    left_out = sum(m.counts.skipped.values()) + sum(m.counts.filtered.values())
    unknown = f"{unknown_share(m.counts):.2%}" if m.counts.unknown_characters else ""
    return {
        "data": name,
        "mix": mix,
        "documents": f"{m.num_documents:,}",
        "left out": f"{left_out:,}" if left_out else "",
        "tokens": f"{m.num_tokens:,}",
        "unknown": unknown if m.counts.has_unknown else "not counted",
        "with weight": f"{m.num_weighted_tokens / m.num_tokens:.1%}" if m.has_weights else "",
        "samples": f"{m.num_samples:,}",
        "seq_len": f"{m.seq_len:,}",
        "packing": m.packing,
        "padding": f"{m.num_padding_tokens / places:.2%}",
        "split": f"{m.num_split_documents:,}" if m.packing == "best_fit" else "",
        "MB": f"{sum(shard.bytes for shard in m.shards) / 1e6:,.1f}",
        "tokenizer": f"{m.tokenizer} ({m.vocab_size:,}, {m.fingerprint[:8]})",
    }

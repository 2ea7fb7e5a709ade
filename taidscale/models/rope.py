"""One spelling of RoPE for both versions of transformers: `rope_theta` and `rope_scaling`.

transformers 4 writes these two, and `original_max_position_embeddings` beside them for longrope.
transformers 5 writes all of it into `rope_parameters`, but still reads the older entries, as vLLM
and llama.cpp do. The older spelling is therefore the one that everybody understands alike.
"""

from typing import Any

THETA, SCALING = "rope_theta", "rope_scaling"
LENGTH = "original_max_position_embeddings"
ENTRIES = ("rope_parameters", THETA, SCALING, LENGTH)
"""Of config.json, in either spelling."""
_BESIDE = frozenset({THETA, "partial_rotary_factor", LENGTH})
"""Which transformers 4 has beside `rope_scaling`."""
_KINDS: dict[str, tuple[set[str], set[str]]] = {
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "dynamic": ({"factor"}, set()),
    "yarn": (
        {"factor"},
        {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    ),
    "longrope": ({"short_factor", "long_factor"}, {"factor", "attention_factor"}),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor", LENGTH}, set()),
}
"""Parameters that each kind must have, and may have."""


def plain_rope(entries: dict[str, Any]) -> dict[str, Any]:
    """The same entries of a config.json with one RoPE, in the older spelling.

    Entries that say nothing of RoPE stay as they are; where nothing is said of it, nothing is
    added, and the family's default holds.

    Raises:
        ValueError: if two entries contradict each other, or transformers 4 and 5 would not
            compute the same from them.
    """
    if not any(entries.get(name) is not None for name in (*ENTRIES, "partial_rotary_factor")):
        return entries
    rest = {
        name: value
        for name, value in entries.items()
        if name not in ENTRIES and name != "partial_rotary_factor"
    }
    newer, older = (_parameters(entries, name) for name in ("rope_parameters", SCALING))
    beside = {name: entries[name] for name in sorted(_BESIDE) if entries.get(name) is not None}
    found = _agreed({"rope_parameters": newer, SCALING: older, "config.json": beside})
    only = (newer.keys() ^ older.keys()) - _BESIDE
    if only and newer and SCALING in entries and (older or newer["rope_type"] != "default"):
        raise ValueError(
            f"rope_parameters and {SCALING} differ in {', '.join(sorted(only))}; delete the one "
            "that the weights were not trained with"
        )
    theta = found.pop(THETA, None)
    if theta is not None:
        if isinstance(theta, bool) or not isinstance(theta, int | float) or theta <= 0:
            raise ValueError(f"{THETA} is {theta!r}; it must be a number above 0")
        rest[THETA] = theta
    return {**rest, **_scaling(found, entries.get("max_position_embeddings"))}


def _parameters(entries: dict[str, Any], name: str) -> dict[str, Any]:
    """What one of the two dictionaries says, without what is null."""
    value = entries.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}; it must hold RoPE's parameters by name")
    nested = sorted(key for key, inner in value.items() if isinstance(inner, dict))
    if nested:
        raise ValueError(
            f"{name} gives each kind of layer its own RoPE ({', '.join(nested)}); the families "
            "that are supported have one for all layers"
        )
    found = {key: inner for key, inner in value.items() if inner is not None}
    if "type" in found:  # of before transformers 4.45
        kind = found.pop("type")
        if found.setdefault("rope_type", kind) != kind:
            raise ValueError(f"{name} has rope_type {found['rope_type']!r} and type {kind!r}")
    if found and name == "rope_parameters":
        found.setdefault("rope_type", "default")
    return found


def _agreed(sources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All parameters, each once."""
    found: dict[str, Any] = {}
    said_by: dict[str, str] = {}
    for source, parameters in sources.items():
        for name, value in parameters.items():
            if found.setdefault(name, value) != value:
                raise ValueError(
                    f"{name} is {found[name]!r} in {said_by[name]} and {value!r} in {source}; "
                    "delete the one that the weights were not trained with"
                )
            said_by.setdefault(name, source)
    return found


def _scaling(found: dict[str, Any], longest: int | None) -> dict[str, Any]:
    """`rope_scaling`, and for longrope the length that transformers 4 reads beside it.

    Args:
        found: all parameters but the base.
        longest: `max_position_embeddings`.
    """
    kind = found.pop("rope_type", None if found.keys() - _BESIDE else "default")
    if kind not in _KINDS:
        raise ValueError(f"rope_type {kind!r} is not one of {', '.join(_KINDS)}")
    if (share := found.pop("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError(
            f"partial_rotary_factor is {share!r}; the supported families rotate whole heads"
        )
    needed, allowed = _KINDS[kind]
    if missing := sorted(needed - found.keys()):
        raise ValueError(f"RoPE of type {kind} lacks {', '.join(missing)}")
    if unknown := sorted(found.keys() - needed - allowed - {LENGTH}):
        raise ValueError(f"RoPE of type {kind} does not use {', '.join(unknown)}")
    length = found.get(LENGTH)
    match kind:
        case "default":
            return {SCALING: None}
        case "linear" | "dynamic":
            if found.pop(LENGTH, longest) != longest:
                raise ValueError(f"RoPE of type {kind} does not use {LENGTH} ({length!r})")
        case "longrope":
            _check_factor(found, length, longest)
            beside = {LENGTH: found.pop(LENGTH)} if length else {}
            return {SCALING: {"rope_type": kind, **found}, **beside}
    return {SCALING: {"rope_type": kind, **found}}


def _check_factor(found: dict[str, Any], length: Any, longest: int | None) -> None:
    """Longrope's factor may be given, or be the ratio of two lengths, but not contradict it."""
    if "attention_factor" in found:  # all that it decides
        return
    if length is None and "factor" not in found:
        raise ValueError(f"RoPE of type longrope lacks {LENGTH} or factor")
    if length and longest and found.setdefault("factor", longest / length) != longest / length:
        raise ValueError(
            f"RoPE's factor is {found['factor']!r}, but max_position_embeddings over {LENGTH} is "
            f"{longest / length:g}, and versions of transformers disagree which counts; set "
            "attention_factor"
        )

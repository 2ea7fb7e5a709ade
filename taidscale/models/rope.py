"""One spelling of RoPE for both versions of transformers: `rope_theta` and `rope_scaling`.

transformers 4 writes these two, and `original_max_position_embeddings` beside them for longrope.
transformers 5 writes all of it into `rope_parameters`, but still reads the older entries, as vLLM
and llama.cpp do. The older spelling is therefore the one that everybody understands alike.
"""

from typing import Any

THETA, SCALING, SHARE = "rope_theta", "rope_scaling", "partial_rotary_factor"
LENGTH = "original_max_position_embeddings"
ENTRIES = ("rope_parameters", THETA, SCALING, LENGTH)
"""Of config.json, in either spelling."""
OWN_NAMES = {"gpt_neox": {THETA: "rotary_emb_base", SHARE: "rotary_pct"}}
"""What some families call them."""
_PARTIAL = frozenset({"gpt_neox", "glm", "glm4", "glm4_moe", "nemotron", "phi", "phi3", "stablelm"})
"""Families that may rotate a part of each head; their defaults differ."""
LAYERED = frozenset({"gemma3_text", "olmo3"})
"""Families whose layers with a window have another RoPE than those without."""
LOCAL = "rope_local_base_freq"
"""Gemma 3's base in layers with a window."""
_WITHOUT_DEFAULT = frozenset({"cohere", "olmo3"})
"""Families for which transformers 4 and 5 have another base where none is given."""
_UNSCALED = frozenset({"nemotron"})
"""Families whose layers of transformers read no scaling."""
_SAYS_TYPE = frozenset({"olmo", "olmo2", "phi3"})
"""Families whose configuration wants `type` for `rope_type`, and nothing that it does not know."""
_BESIDE = frozenset({THETA, SHARE, LENGTH})
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


def rope_entries(family: str) -> frozenset[str]:
    """Names under which `plain_rope` leaves what a family's config.json says of RoPE."""
    share = {SHARE} if family in _PARTIAL else set()
    local = {LOCAL} if family == "gemma3_text" else set()
    return frozenset({*ENTRIES, *share, *local, *OWN_NAMES.get(family, {}).values()})


def check_base(plain: dict[str, Any]) -> None:
    """Refuse entries without a base where versions of transformers disagree on it.

    Raises:
        ValueError: naming the entry to add.
    """
    family = str(plain.get("model_type"))
    if family in _WITHOUT_DEFAULT and plain.get(THETA) is None:
        raise ValueError(
            f"{THETA} is not given, and versions of transformers have other defaults for {family}; "
            "add the one that the weights were trained with"
        )


def plain_rope(entries: dict[str, Any]) -> dict[str, Any]:
    """The same entries of a config.json with one RoPE, in the older spelling.

    Entries that say nothing of RoPE stay as they are; where nothing is said of it, nothing is
    added, and the family's default holds.

    Raises:
        ValueError: if two entries contradict each other, or transformers 4 and 5 would not
            compute the same from them.
    """
    family = str(entries.get("model_type"))
    names = OWN_NAMES.get(family, {})
    spelled = {SHARE, LOCAL, *names.values()}
    if not any(entries.get(name) is not None for name in (*ENTRIES, *spelled)):
        return entries
    entries = _of_one_kind(entries, family)
    rest = {
        name: value
        for name, value in entries.items()
        if name not in ENTRIES and name not in {SHARE, *names.values()}
    }
    newer, older = (_parameters(entries, name) for name in ("rope_parameters", SCALING))
    beside = {name: entries[name] for name in sorted(_BESIDE) if entries.get(name) is not None}
    own = {name: entries[said] for name, said in names.items() if entries.get(said) is not None}
    found = _agreed({"rope_parameters": newer, SCALING: older, "config.json": beside, family: own})
    only = (newer.keys() ^ older.keys()) - _BESIDE
    if only and newer and SCALING in entries and (older or newer["rope_type"] != "default"):
        raise ValueError(
            f"rope_parameters and {SCALING} differ in {', '.join(sorted(only))}; delete the one "
            "that the weights were not trained with"
        )
    for name in (THETA, SHARE):
        if (value := found.pop(name, None)) is not None:
            _check_number(name, value, family)
            if name == THETA or family in _PARTIAL:
                rest[names.get(name, name)] = value
    scaling = _scaling(found, entries.get("max_position_embeddings"))
    return {**rest, **_spelled_for(family, scaling)}


def _check_number(name: str, value: Any, family: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"{name} is {value!r}; it must be a number above 0")
    if name == SHARE and (value > 1 or (value != 1 and family not in _PARTIAL)):
        raise ValueError(f"{SHARE} is {value!r}; {family} rotates whole heads")


def _of_one_kind(entries: dict[str, Any], family: str) -> dict[str, Any]:
    """The same where `rope_parameters` of transformers 5 are by the kind of layer.

    Gemma 3 has another base in layers with a window, OLMo 3 no scaling there.
    """
    kinds = entries.get("rope_parameters")
    if family not in LAYERED or not isinstance(kinds, dict) or "full_attention" not in kinds:
        return entries
    full, sliding = kinds["full_attention"], kinds.get("sliding_attention")
    if kinds.keys() - {"full_attention", "sliding_attention"} or not isinstance(full, dict):
        raise ValueError(f"rope_parameters has {sorted(kinds)}; {family} has two kinds of layers")
    entries = {**entries, "rope_parameters": full}
    if not isinstance(sliding, dict):
        return entries
    local = {name: value for name, value in sliding.items() if value is not None}
    base = local.pop(THETA, full.get(THETA))
    if local.pop("rope_type", "default") != "default" or local:
        raise ValueError(
            f"rope_parameters of sliding_attention has {sliding!r}; transformers 4 scales no RoPE "
            "of layers with a window"
        )
    if family == "gemma3_text":
        if entries.get(LOCAL, base) != base:
            raise ValueError(f"{LOCAL} is {entries[LOCAL]!r}, but rope_parameters says {base!r}")
        return {**entries, LOCAL: base}
    if base != full.get(THETA):
        raise ValueError(f"{THETA} is {base!r} for layers with a window and {full.get(THETA)!r}")
    return entries


def _spelled_for(family: str, scaling: dict[str, Any]) -> dict[str, Any]:
    """As the configuration of a family wants it."""
    inner = scaling.get(SCALING)
    if inner is None:
        return scaling
    if family in _UNSCALED:
        raise ValueError(f"{SCALING} is {inner!r}; the layers of {family} do not read it")
    if family in _SAYS_TYPE:
        inner = {"type" if name == "rope_type" else name: value for name, value in inner.items()}
        if family == "phi3":
            inner.pop("factor", None)  # the ratio of two lengths, as `_check_factor` has seen
    return {**scaling, SCALING: inner}


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
        if kind == "su":  # Phi-3's first name for it
            kind = "longrope"
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


def changes_with_length(config: Any, seq_len: int) -> bool:
    """Whether a document's RoPE depends on what is packed beside it, at this length of a batch.

    Beyond the length that a model was made for at first, longrope has other frequencies, which
    transformers takes for a whole batch as soon as one of its positions is there.

    Args:
        config: of the model.
        seq_len: most positions of a batch.
    """
    plain = plain_rope(config.to_dict())
    scaling = plain.get(SCALING) or {}
    if scaling.get("rope_type", scaling.get("type")) != "longrope":
        return False
    original = plain.get(LENGTH) or scaling.get(LENGTH)
    return original is not None and seq_len > original

"""From RoPE as transformers 4 spells it to the `rope_parameters` of transformers 5.

That version still takes the older entries, but loses OLMo 3's `rope_theta` in layers with a window.
"""

from typing import Any

from taidscale.models.rope import LAYERED, LENGTH, LOCAL, OWN_NAMES, SCALING, SHARE, THETA


def newer_rope(entries: dict[str, Any]) -> dict[str, Any]:
    """The same entries of a config.json, which `plain_rope` gave, with `rope_parameters`.

    What is not said stays so, for the family's default.
    """
    family = str(entries.get("model_type"))
    names = OWN_NAMES.get(family, {})
    said = {name: names.get(name, name) for name in (THETA, SHARE)}
    if not any(entries.get(name) for name in (*said.values(), SCALING, LOCAL)):
        return entries
    rest = {n: v for n, v in entries.items() if n not in {*said.values(), SCALING, LOCAL}}
    scaling = dict(entries.get(SCALING) or {"rope_type": "default"})
    if "type" in scaling:
        scaling["rope_type"] = scaling.pop("type")
    beside = {name: entries[called] for name, called in said.items() if entries.get(called)}
    if scaling["rope_type"] == "longrope" and entries.get(LENGTH):
        beside[LENGTH] = entries[LENGTH]
    full = {**scaling, **beside}
    if family not in LAYERED:
        return {**rest, "rope_parameters": full}
    local = entries.get(LOCAL) if family == "gemma3_text" else entries.get(THETA)
    sliding = {"rope_type": "default", **({THETA: local} if local else {})}
    return {**rest, "rope_parameters": {"full_attention": full, "sliding_attention": sliding}}

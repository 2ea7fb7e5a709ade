"""A config.json with some of its entries replaced."""

import logging
from typing import Any

from transformers import PretrainedConfig

from taidscale.models.config_file import default_entries, to_config
from taidscale.models.rope import LENGTH, SCALING, plain_rope, rope_entries

log = logging.getLogger(__name__)
_OF_LAYER_TYPES = ("num_hidden_layers", "max_window_layers", "sliding_window", "use_sliding_window")


def overridden(entries: dict[str, Any], overrides: dict[str, Any]) -> PretrainedConfig:
    """What transformers makes of the entries of a config.json with some of them replaced.

    What the file leaves out is derived from the entries that hold then. So are `layer_types` that
    are those which transformers derives anyway. Of RoPE, `rope_parameters` replaces all, other
    entries only themselves.

    Args:
        entries: of a config.json that `to_config` takes.
        overrides: entries to replace, or to add.

    Raises:
        ValueError: if one is unknown, without effect, or does not fit to the others.
    """
    for name in ("dtype", "torch_dtype"):
        if name in overrides:
            raise ValueError(f"{name} cannot be set here; the run's setting `precision` decides it")
    family = overrides.get("model_type", entries["model_type"])
    if family != entries["model_type"]:
        raise ValueError(f"model_type cannot be changed to {family!r}; take a config.json of it")
    known = default_entries(family).keys() | entries.keys() | rope_entries(family) | {"head_dim"}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"{', '.join(unknown)} is not an entry of config.json of {family}")
    before = plain_rope(entries)
    new = plain_rope(overrides) if "rope_parameters" in overrides else overrides
    if SCALING in new:
        before = {name: value for name, value in before.items() if name != LENGTH}
    config = to_config({**_without_derived(before, new), **new})
    _check_effect(config, new)
    _warn_of_head_dim(to_config(entries), config, new)
    return config


def _without_derived(entries: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Without `layer_types`, if transformers derives just them and what they follow changes."""
    changed = [name for name in _OF_LAYER_TYPES if name in overrides]
    if not changed or not entries.get("layer_types") or "layer_types" in overrides:
        return entries
    rest = {name: value for name, value in entries.items() if name != "layer_types"}
    if getattr(to_config(rest), "layer_types", None) not in (None, entries["layer_types"]):
        raise ValueError(
            f"{', '.join(changed)}: config.json lists layer_types of its own; override them too"
        )
    return rest


def _check_effect(config: PretrainedConfig, overrides: dict[str, Any]) -> None:
    for name, value in overrides.items():
        rope = name in rope_entries(config.model_type)
        if value is not None and not rope and getattr(config, name, None) != value:
            raise ValueError(f"{name}: {value!r} has no effect beside the other entries")
    windows = getattr(config, "use_sliding_window", None)
    if windows is False and "max_window_layers" in overrides:
        raise ValueError("max_window_layers has no effect; set use_sliding_window: true too")
    if windows and config.sliding_window is None:
        raise ValueError("use_sliding_window has no effect; set sliding_window too")


def _warn_of_head_dim(
    before: PretrainedConfig, after: PretrainedConfig, overrides: dict[str, Any]
) -> None:
    """Say that a size which looks derived is one of the file's own entries, and stays."""
    (one, was), (other, now) = (
        (getattr(c, "head_dim", None), c.hidden_size // c.num_attention_heads)
        for c in (before, after)
    )
    if "head_dim" not in overrides and was == one == other != now:
        log.warning(
            "student.init.overrides: head_dim stays %d, as config.json says; hidden_size over "
            "num_attention_heads is %d now",
            other,
            now,
        )

"""Every setting of a run as people look it up: path, type, default, unit and meaning."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from taidscale.config.schema import RunConfig

_UNIT = re.compile(
    r"(?:optimizer )?(steps|seconds|minutes|hours|tokens|sequences|samples|micro-batches|ranks"
    r"|mib)\b",
    re.IGNORECASE,
)
"""How the meaning of a number begins that has a unit."""
_Node = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One setting, of all variants of its section that have it alike."""

    path: str
    """As in an override; N stands for the place in a list."""
    type: str
    default: str
    """As YAML has it; `required` where there is none."""
    unit: str
    """Empty where it has none."""
    help: str
    only_with: str
    """The variants of sections around it that have it; empty where all do."""


def json_schema() -> dict[str, Any]:
    """The JSON schema of a run's YAML, for editors.

    It holds names, types and bounds; how settings agree with each other only `load_config` knows.
    """
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **RunConfig.model_json_schema(), "title": "A run of TAIDScale"}


def all_settings() -> list[Setting]:
    """In the order of the configuration; what variants have alike stands there once."""
    schema = json_schema()
    found: dict[tuple[str, str, str, str], dict[str, list[str]]] = {}
    for path, node, default, given in _walk(schema, schema["$defs"], "", {}):
        about = [node, *(_model(reference, schema["$defs"]) for reference in _references(node))]
        text = next(filter(None, (part.get("description") for part in about)), "")
        key = (path, _type(node), default, " ".join(text.split()))
        choices = found.setdefault(key, {choice: [] for choice in given})
        for choice, tags in given.items():
            choices[choice] += [tag for tag in tags if tag not in choices[choice]]
    every = {path: kind.split(" | ") for path, kind, _, _ in found}
    return [
        Setting(
            path,
            kind,
            default,
            _unit(kind, text),
            text,
            "; ".join(filter(None, (_only(c, tags, every[c]) for c, tags in choices.items()))),
        )
        for (path, kind, default, text), choices in found.items()
    ]


def as_text(settings: list[Setting]) -> str:
    """Two lines or more a setting."""
    lines = []
    for setting in settings:
        unit = f", in {setting.unit}" if setting.unit else ""
        default = "required" if setting.default == "required" else f"default {setting.default}"
        lines.append(f"{setting.path}: {setting.type}{unit}; {default}")
        about = [setting.help, f"(with {setting.only_with})" if setting.only_with else ""]
        for part in about:
            lines += textwrap.wrap(part, 100, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def as_markdown(settings: list[Setting]) -> str:
    """One table."""
    rows = ["| setting | type | default | unit | meaning |", "|---|---|---|---|---|"]
    for setting in settings:
        only = f" (with {setting.only_with})" if setting.only_with else ""
        cells = (
            f"`{setting.path}`",
            setting.type,
            f"`{setting.default}`" if setting.default != "required" else "required",
            setting.unit,
            setting.help + only,
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _walk(
    section: _Node, models: _Node, prefix: str, given: dict[str, list[str]]
) -> Iterator[tuple[str, _Node, str, dict[str, list[str]]]]:
    """Each setting below a section: its path, schema and default, and the tags that it needs."""
    for name, node in section["properties"].items():
        path = prefix + name
        if path in given:  # the tag, of which all values stand before the variants
            continue
        if _type(node) != "section":
            required = name in section.get("required", [])
            yield path, node, _default(node, required, models), given
        below = f"{path}.N." if "items" in node else f"{path}."
        union = _union(node)
        if union is not None:
            below_tag = below + union["discriminator"]["propertyName"]
            yield below_tag, *_tag(union, models), given
        for model in _references(node):
            tags = {} if union is None else {below_tag: _tags_of(union, model)}
            yield from _walk(_model(model, models), models, below, given | tags)


def _references(node: _Node) -> list[str]:
    """The sections that may stand here, or in the list that stands here."""
    if "$ref" in node:
        return [node["$ref"]]
    inner = [*node.get("anyOf", []), *node.get("oneOf", []), *filter(None, [node.get("items")])]
    return [reference for part in inner for reference in _references(part)]


def _union(node: _Node) -> _Node | None:
    """The part of it in which a tag decides which section stands here."""
    parts = (_union(part) for part in node.get("anyOf", []))
    return node if "discriminator" in node else next(filter(None, parts), None)


def _tags_of(union: _Node, reference: str) -> list[str]:
    return [tag for tag, model in union["discriminator"]["mapping"].items() if model == reference]


def _tag(union: _Node, models: _Node) -> tuple[_Node, str]:
    """Schema and default of the setting that decides."""
    name = union["discriminator"]["propertyName"]
    variants = [(reference, _model(reference, models)) for reference in _references(union)]
    tags = {tag: model for reference, model in variants for tag in _tags_of(union, reference)}
    meanings = [f"{tag}: {model['description'].rstrip('.')}" for tag, model in tags.items()]
    defaults = [model["properties"][name].get("default") for model in tags.values()]
    default = next(filter(None, defaults), "required")
    return {"enum": list(tags), "description": "; ".join(meanings) + "."}, default


def _model(reference: str, models: _Node) -> _Node:
    model: _Node = models[reference.rpartition("/")[2]]
    return model


def _type(node: _Node) -> str:
    match node:
        case {"anyOf": parts}:
            return " | ".join(_type(part) for part in parts)
        case {"$ref": _} | {"oneOf": _}:
            return "section"
        case {"const": value}:
            return str(value)
        case {"enum": values}:
            return " | ".join(map(str, values))
        case {"prefixItems": items}:
            return f"list of {len(items)}: {_type(items[0])}"
        case {"type": "array", "items": item}:
            return f"list: {_type(item)}"
        case {"type": "object"}:
            return "mapping"
        case {"type": "string"}:
            return "text"
        case {"type": "boolean"}:
            return "true | false"
        case _:
            return " ".join([node["type"], *_bounds(node)])


def _bounds(node: _Node) -> Iterator[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    for name, sign in signs.items():
        if name in node:
            yield f"{sign} {float(node[name]):.10g}"


def _default(node: _Node, required: bool, models: _Node) -> str:
    """In one line of YAML; of a section only what differs from its own defaults."""
    if required:
        return "required"
    value = node.get("default", [] if node.get("type") == "array" else {})
    if isinstance(value, dict):
        own = {
            name: field.get("default")
            for reference in _references(node)
            for name, field in _model(reference, models)["properties"].items()
        }
        value = {name: entry for name, entry in value.items() if entry != own.get(name)}
    line = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return line.removesuffix("...\n").strip()


def _only(choice: str, tags: list[str], every: list[str]) -> str:
    """The shorter way to say it; empty for all of them."""
    others = [tag for tag in every if tag not in tags]
    if len(others) < len(tags):
        return f"{choice} not {', '.join(others)}" if others else ""
    return f"{choice} {', '.join(tags)}"


def _unit(kind: str, text: str) -> str:
    found = _UNIT.match(text) if kind.startswith(("integer", "number", "list of")) else None
    return "" if found is None else "MiB" if found[1].lower() == "mib" else found[1].lower()

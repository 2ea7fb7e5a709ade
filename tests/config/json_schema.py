"""As much of JSON schema as describes a run: where a value does not keep to it."""

import re
from collections.abc import Iterator
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}
UNDERSTOOD = {
    *("$schema", "$defs", "title", "description", "default", "format", "discriminator"),
    *("$ref", "anyOf", "oneOf", "const", "enum", "type", "pattern", "minLength"),
    *("properties", "required", "additionalProperties", "patternProperties", "minProperties"),
    *("items", "prefixItems", "minItems", "maxItems"),
    *("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"),
}


def violations(value: Any, node: dict[str, Any], root: dict[str, Any], at: str = "") -> list[str]:
    """What is wrong with a value, each with its path."""
    assert node.keys() <= UNDERSTOOD, node.keys() - UNDERSTOOD
    found = list(_own(value, node, at))
    if "$ref" in node:
        inner = root["$defs"][node["$ref"].removeprefix("#/$defs/")]
        found += violations(value, inner, root, at)
    for kind, wanted in (("anyOf", range(1, 99)), ("oneOf", range(1, 2))):
        if kind in node:
            tries = [violations(value, inner, root, at) for inner in node[kind]]
            if sum(not wrong for wrong in tries) not in wanted:
                found += [f"{at}: {kind}", *min(tries, key=len)]
    if isinstance(value, dict) and not found:
        found += _members(value, node, root, at)
    if isinstance(value, list) and not found:
        for number, item in enumerate(value):
            listed = node.get("prefixItems", [])
            inner = listed[number] if number < len(listed) else node.get("items", {})
            found += violations(item, inner, root, f"{at}.{number}")
    return found


def _members(
    value: dict[str, Any], node: dict[str, Any], root: dict[str, Any], at: str
) -> Iterator[str]:
    for name, item in value.items():
        patterns = node.get("patternProperties", {})
        others = (inner for pattern, inner in patterns.items() if re.search(pattern, name))
        inner = node.get("properties", {}).get(name) or next(others, None)
        inner = node.get("additionalProperties", {}) if inner is None else inner
        if inner is False:
            yield f"{at}.{name}: unknown"
        elif inner is not True:
            yield from violations(item, inner, root, f"{at}.{name}")


def _own(value: Any, node: dict[str, Any], at: str) -> Iterator[str]:
    kind = node.get("type")
    if kind and not isinstance(value, TYPES[kind]):
        yield f"{at}: no {kind}"
        return
    if isinstance(value, bool) and kind in ("integer", "number"):
        yield f"{at}: no {kind}"
    checks = {
        "const": lambda want: value == want,
        "enum": lambda want: value in want,
        "pattern": lambda want: re.search(want, value),
        "required": lambda want: set(want) <= set(value),
        "minLength": lambda want: len(value) >= want,
        "minProperties": lambda want: len(value) >= want,
        "minItems": lambda want: len(value) >= want,
        "maxItems": lambda want: len(value) <= want,
        "minimum": lambda want: value >= want,
        "exclusiveMinimum": lambda want: value > want,
        "maximum": lambda want: value <= want,
        "exclusiveMaximum": lambda want: value < want,
    }
    for name, holds in checks.items():
        if name in node and not holds(node[name]):
            yield f"{at}: {name} {node[name]}"

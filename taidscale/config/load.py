"""From a YAML file and `a.b=c` overrides to a checked `RunConfig`, or every error at once."""

import difflib
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from taidscale.config.schema import RunConfig


class ConfigError(ValueError):
    """One or more wrong settings, each named by its full path and value."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n  ".join([f"{source}: {_count(len(problems))}", *problems]))


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read one run's configuration.

    Args:
        path: YAML file.
        overrides: dotted settings such as `loss.t.t_start=0.2`, whose values are YAML.

    Raises:
        ConfigError: with all wrong settings at once.
    """
    path = Path(path)
    try:
        settings = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"is not valid YAML: {error}"]) from None
    if not isinstance(settings, dict):
        raise ConfigError(str(path), ["must hold settings (`name: value` lines)"])
    problems = [problem for text in overrides or [] if (problem := _override(settings, text))]
    if problems:
        raise ConfigError(str(path), problems)
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        problems = [problem for item in error.errors() for problem in _describe(item)]
        raise ConfigError(str(path), problems) from None


def check_world(config: RunConfig, world_size: int, local_world_size: int) -> None:
    """Check the settings that depend on the number of ranks.

    Args:
        config: the run.
        world_size: ranks in all.
        local_world_size: ranks of this node.

    Raises:
        ConfigError: with all that do not fit.
    """
    problems = []
    tp_size = config.tp_size
    if local_world_size % tp_size:
        fits = [n for n in range(1, local_world_size + 1) if local_world_size % n == 0]
        problems.append(
            f"teacher.tp_size: {tp_size} does not divide the {local_world_size} ranks of a node; "
            f"choose one of {fits}"
        )
    per_micro_batch = config.micro_batch_size * world_size
    if config.global_batch_size % per_micro_batch:
        above = -(-config.global_batch_size // per_micro_batch) * per_micro_batch
        problems.append(
            f"global_batch_size: {config.global_batch_size} is not a multiple of micro_batch_size "
            f"({config.micro_batch_size}) times {world_size} ranks = {per_micro_batch}; "
            f"the next that is: {above}"
        )
    if problems:
        raise ConfigError(f"on {world_size} ranks", problems)


def dump_config(config: RunConfig) -> str:
    """The complete configuration, defaults included, as YAML that loads again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flat_settings(config: RunConfig) -> dict[str, Any]:
    """Every setting by its dotted path."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else name, inner)
        else:
            flat[prefix] = value

    walk("", config.model_dump(mode="json"))
    return flat


def config_of(flat: dict[str, Any]) -> RunConfig | None:
    """The run of which these are the `flat_settings`; None if it is one of another version."""
    settings: dict[str, Any] = {}
    for dotted, value in flat.items():
        *sections, name = dotted.split(".")
        here = settings
        for section in sections:
            here = here.setdefault(section, {})
            if not isinstance(here, dict):
                return None
        here[name] = value
    try:
        return RunConfig.model_validate(settings)
    except ValidationError:
        return None


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-6` is a number, and a setting that is written twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key) for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"setting {name!r} is written twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def _override(settings: dict[str, Any], text: str) -> str | None:
    """Set one dotted override in place; return what is wrong with it, if anything."""
    dotted, equals, value = text.partition("=")
    if not equals or not all(dotted.split(".")):
        return f"override {text!r} must look like section.setting=value"
    *sections, name = dotted.split(".")
    here: Any = settings
    for section in sections:
        here = here[int(section)] if _indexes(here, section) else _subsection(here, section)
        if not isinstance(here, dict | list):
            return f"override {text!r}: {section!r} is a value, not a section"
    try:
        parsed = _Loader(value).get_single_data()
    except yaml.YAMLError:
        return f"override {text!r}: the value is not valid YAML"
    if isinstance(here, dict):
        here[name] = parsed
    elif _indexes(here, name):
        here[int(name)] = parsed
    else:
        return f"override {text!r}: there is no item {name!r} in a list of {len(here)}"
    return None


def _indexes(value: Any, name: str) -> bool:
    return isinstance(value, list) and name.isdigit() and int(name) < len(value)


def _subsection(here: Any, section: str) -> Any:
    if not isinstance(here, dict):
        return None
    if here.get(section) is None:
        here[section] = {}
    return here[section]


def _describe(error: ErrorDetails) -> list[str]:
    """Each wrong setting: its path, the value, what is wrong, and a remedy where one is known."""
    path = _setting_path(error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    where = f"{path}: " if path else ""
    match error["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(str(error["loc"][-1]), _names_at(error["loc"]), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return [f"{where}unknown setting{_variant(error['loc'])}{hint}"]
        case "missing":
            return [f"{where}is missing"]
        case "value_error":  # a section's checks, a line each
            return [f"{where}{line}" for line in message.splitlines()]
        case "union_tag_invalid":
            context = error["ctx"]
            name, tag = context["discriminator"].strip("'"), context["tag"]
            return [f"{path}.{name}: must be one of {context['expected_tags']} (got {tag!r})"]
        case "union_tag_not_found":
            name = error["ctx"]["discriminator"].strip("'")
            return [f"{path}.{name}: is missing (got {error['input']!r})"]
        case _:
            return [f"{where}{message[0].lower()}{message[1:]} (got {error['input']!r})"]


def _setting_path(location: tuple[int | str, ...]) -> str:
    """The dotted path in the user's file, without the tags that pydantic puts in for unions."""
    return ".".join(name for name, _ in _walk(location))


def _variant(location: tuple[int | str, ...]) -> str:
    """Which kind of section the last item stands in, where there are several kinds."""
    kind, names = location[-2] if len(location) > 1 else None, [name for name, _ in _walk(location)]
    return f" of {kind}" if isinstance(kind, str) and kind not in names else ""


def _names_at(location: tuple[int | str, ...]) -> list[str]:
    """Names that exist in the section in which the last item of `location` stands."""
    models: list[type[BaseModel]] = [RunConfig]
    for _, inner in _walk(location[:-1]):
        models = inner
    return [name for model in models for name in model.model_fields]


def _walk(location: tuple[int | str, ...]) -> list[tuple[str, list[type[BaseModel]]]]:
    """Follow a location through the schema: (name in the file, models that may stand there)."""
    steps: list[tuple[str, list[type[BaseModel]]]] = []
    models: list[type[BaseModel]] = [RunConfig]
    for item in location:
        fields = {k: v for model in models for k, v in model.model_fields.items()}
        if isinstance(item, str) and item in fields:
            models = _models_in(fields[item].annotation)
            steps.append((item, models))
        elif isinstance(item, str) and (tagged := [m for m in models if _has_tag(m, item)]):
            models = tagged
            if steps:
                steps[-1] = (steps[-1][0], models)
        else:
            steps.append((str(item), models))
    return steps


def _has_tag(model: type[BaseModel], tag: str) -> bool:
    return any(tag in get_args(field.annotation) for field in model.model_fields.values())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, list):
        return [model for inner in get_args(annotation) for model in _models_in(inner)]
    return []


def _count(problems: int) -> str:
    return "1 problem" if problems == 1 else f"{problems} problems"

"""What all sections of the configuration share: wrong settings are said all at once."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
_Check = TypeVar("_Check", bound=Callable[[Any], Iterator[str]])


def check(method: _Check) -> _Check:
    """Mark a section's method that yields how its settings disagree with each other.

    It also sees a section of which some settings are wrong, and are not there: then it may end
    with AttributeError. So each looks at settings that are of no use without each other.
    """
    method.__dict__["checks"] = True
    return method


class Section(BaseModel):
    """A part of the configuration: unknown settings are errors, values are constants."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            section = handler(given)
        except ValidationError as error:
            if not isinstance(given, dict):
                raise
            wrong = error.errors()
            problems = list(_partly(cls._right_part_of(given, wrong)))
            if not problems:
                raise
            lines = [_again(item) for item in wrong]
            cause = {"error": ValueError("\n".join(problems))}
            lines.append(InitErrorDetails(type="value_error", loc=(), input=given, ctx=cause))
            raise ValidationError.from_exception_data(error.title, lines) from None
        if problems := [problem for see in _checks_of(cls) for problem in see(section)]:
            raise ValueError("\n".join(problems))
        return section

    @classmethod
    def _right_part_of(cls, given: dict[str, Any], wrong: list[ErrorDetails]) -> "Section":
        """The section without those of its settings that are wrong by themselves."""
        names = {str(item["loc"][0]) for item in wrong if item["loc"]}
        right = {name: field for name, field in cls.model_fields.items() if name not in names}
        fields: dict[str, Any] = {name: (field.annotation, field) for name, field in right.items()}
        part = create_model("part", __config__=cls.model_config, **fields).model_validate(
            {name: value for name, value in given.items() if name in right}
        )
        section = cls.model_construct(**{name: getattr(part, name) for name in right})
        for name in names:
            section.__dict__.pop(name, None)  # not the default either
        return section


def _checks_of(kind: type[Section]) -> list[Callable[[Any], Iterator[str]]]:
    methods = (method for owner in reversed(kind.mro()) for method in vars(owner).values())
    return [method for method in methods if getattr(method, "checks", False) is True]


def _partly(section: Section) -> Iterator[str]:
    for see in _checks_of(type(section)):
        try:
            yield from see(section)
        except AttributeError:  # of a setting that is wrong by itself
            continue


def _again(item: ErrorDetails) -> InitErrorDetails:
    return InitErrorDetails(
        type=item["type"], loc=item["loc"], input=item["input"], ctx=item.get("ctx", {})
    )

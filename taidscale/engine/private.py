"""Names that DeepSpeed promises to nobody: where one is gone or new, no run goes on without it."""

from typing import Any

import deepspeed

WRITTEN_FOR = "0.19.8"


class PrivateNameError(ValueError):
    """The installed DeepSpeed is not the one that this was written for."""


def private(owner: Any, name: str, kind: type | None = None) -> Any:
    """What a private attribute of DeepSpeed's holds.

    Args:
        owner: one of its objects, or something that it has added the attribute to.
        name: of the attribute.
        kind: of which it must be.

    Raises:
        PrivateNameError: if there is none, or it is of another kind.
    """
    try:
        value = getattr(owner, name)
    except AttributeError:
        raise changed(f"{_name_of(owner)} has no {name}") from None
    if kind is not None and not isinstance(value, kind):
        raise changed(f"{_name_of(owner)}.{name} is a {type(value).__name__}")
    return value


def replace_private(owner: Any, name: str, value: Any) -> None:
    """Give a private attribute of DeepSpeed's another value.

    Raises:
        PrivateNameError: if there is none: nobody would look at a new one.
    """
    private(owner, name)
    setattr(owner, name, value)


def changed(what: str) -> PrivateNameError:
    """The error about something of DeepSpeed's that is not as it was."""
    return PrivateNameError(
        f"DeepSpeed {deepspeed.__version__} is installed, and TAIDScale was written for "
        f"{WRITTEN_FOR}: {what}, so that a run could go wrong without a word. Install "
        f"deepspeed=={WRITTEN_FOR}"
    )


def _name_of(owner: Any) -> str:
    return str(getattr(owner, "__name__", type(owner).__name__))

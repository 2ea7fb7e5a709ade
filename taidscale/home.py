"""What `~` in a path means where no shell has replaced it."""

from pathlib import Path


def at_home(path: str | Path) -> Path:
    """The path with `~`, or `~name`, replaced by a home folder.

    Raises:
        ValueError: if nobody of that name has one.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        first = Path(path).parts[0]
        raise ValueError(f"{path}: there is no home folder {first}; write the whole path") from None

"""Which names of files, read from a file, may be used?"""

from pathlib import PurePosixPath

SUFFIX = ".mds"


def check_shard_name(name: object, source: str) -> str:
    """Make sure that a shard's name is that of a shard below its folder.

    An index or a manifest may come from anywhere. A name such as `../../.bashrc` in it would
    have a file outside of the folder read, replaced or deleted.

    Args:
        name: As the file has it.
        source: The file, for the message.

    Raises:
        ValueError: It leads out of the folder, is hidden, or is no shard's.
    """
    path = PurePosixPath(name) if isinstance(name, str) else None
    is_plain = (
        path is not None
        and str(path) == name
        and name.isprintable()
        and "\\" not in name
        and not path.is_absolute()
        and not any(part.startswith(".") for part in path.parts)
        and path.suffix == SUFFIX
    )
    if not is_plain:
        raise ValueError(
            f"{source} names a shard {name!r}, which is not a plain {SUFFIX} file below its "
            "folder; do not use these data, or prepare them again"
        )
    return str(name)

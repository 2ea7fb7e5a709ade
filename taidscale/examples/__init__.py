"""Launchers and example configurations: links in a checkout, files once installed."""

import shutil
from pathlib import Path

from taidscale.durable import replace_file

EXAMPLES = Path(__file__).parent
FOLDERS = ("launchers", "configs")


def copy_examples(folder: Path) -> list[Path]:
    """Copy launchers and configurations into `folder`, where files of their names stay as they are.

    Returns:
        The files that were written.

    Raises:
        ValueError: naming a file that differs from the one it should be; nothing is written then.
        OSError: if `folder` cannot be written to.
    """
    files = [path for name in FOLDERS for path in sorted((EXAMPLES / name).iterdir())]
    targets = {folder / path.relative_to(EXAMPLES): path for path in files if path.is_file()}
    for target, path in targets.items():
        if target.exists() and target.read_bytes() != path.read_bytes():
            raise ValueError(f"{target} is there already, and different: choose another folder")
    written = [target for target in targets if not target.exists()]
    for target in written:
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, targets[target].read_text(encoding="utf-8"))
        shutil.copymode(targets[target], target)  # launchers can be executed
    return written

"""Under which id a run is at Weights & Biases: the same in every start, another in every copy."""

import logging
import re
import secrets
from pathlib import Path

from taidscale.durable import replace_file
from taidscale.file_names import WANDB_ID_FILE, WANDB_PLACE_FILE

log = logging.getLogger(__name__)

"""In the run's folder; the second holds where that was when the id was made or last used."""


def wandb_id(run_dir: Path) -> str:
    """The run's id, so that its curve goes on in one place after a resume.

    A folder that was moved keeps it. A copy, beside which the original is still there with the
    same id, gets one of its own; both would else write into one run.
    """
    here = str(run_dir.resolve())
    own, place = _read(run_dir / WANDB_ID_FILE), _read(run_dir / WANDB_PLACE_FILE)
    if own is not None and not re.fullmatch(r"[0-9A-Za-z_-]+", own):
        log.warning("%s holds no id; the run gets a new one there", run_dir / WANDB_ID_FILE)
        own = None
    if own and place and place != here and _read(Path(place) / WANDB_ID_FILE) == own:
        log.warning("%s is a copy of %s; it gets a wandb_id of its own", here, place)
        own = None
    if own is None:
        own = secrets.token_hex(4)
        replace_file(run_dir / WANDB_ID_FILE, own)
    if place != here:
        replace_file(run_dir / WANDB_PLACE_FILE, here)
    return own


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None

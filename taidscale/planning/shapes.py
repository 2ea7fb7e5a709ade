"""Which models a run is made of: their shapes, from configurations alone."""

import difflib
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from taidscale.config.schema import RunConfig
from taidscale.home import at_home
from taidscale.models.config_file import read_entries
from taidscale.models.families import check_hub_id, model_config
from taidscale.models.shape import ModelShape, model_shape
from taidscale.models.student import student_config
from taidscale.planning.known_models import KNOWN_MODELS, UNSUPPORTED


def run_shapes(config: RunConfig) -> tuple[ModelShape, ModelShape | None]:
    """Student and teacher of a run.

    Raises:
        ValueError: with what is wrong with both, a line each.
    """
    problems = []
    within = config.data.attention == "within_document"
    student = teacher = None
    try:
        found = student_config(config, entries)
        student = model_shape(found, config.student.attention, within_document=within)
    except ValueError as error:
        problems.append(str(error))
    if config.teacher is not None:
        named = config.teacher
        try:
            stated = entries(named.model, named.revision, "teacher.model")
            found = model_config(stated, "teacher.model", named.model)
            teacher = model_shape(found, named.attention, within_document=within)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n  ".join(dict.fromkeys(problems)))
    assert student is not None
    return student, teacher


def entries(name: str, revision: str | None, setting: str) -> dict[str, Any]:
    """Of config.json of a local folder, of a known model, or of one on the Hub.

    Of the Hub only `config.json` is fetched.

    Raises:
        ValueError: if it is none of them, or a model of which it is known that it cannot be read.
    """
    folder = at_home(name)
    if folder.is_dir():
        return read_entries(folder, setting)
    if name in KNOWN_MODELS:
        return KNOWN_MODELS[name]
    if name in UNSUPPORTED:
        raise ValueError(f"{setting}: {name} is not supported: {UNSUPPORTED[name]}")
    check_hub_id(name, setting)
    try:
        file = hf_hub_download(name, "config.json", revision=revision)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        near = difflib.get_close_matches(name, KNOWN_MODELS, n=3, cutoff=0.5)
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{setting}: {name!r} is not a folder here, not a model known without a network"
            f"{' (near: ' + ', '.join(near) + ')' if near else ''}, and the Hub did not provide "
            f"its config.json: {reason}"
        ) from None
    return read_entries(Path(file).parent, setting)

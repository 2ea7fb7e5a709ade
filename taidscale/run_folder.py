"""What a run's folder holds besides checkpoints: its settings and the student's identity.

    run_dir/
      config.yaml         every setting of the run, defaults included
      student/            config.json, tokenizer and generation settings, for the export
      metrics.jsonl       a line a step
      evaluations.jsonl   a line an evaluation
      checkpoints/        step-00000100/, ...
"""

import logging
import os
import shutil
from pathlib import Path

from taidscale.config.load import dump_config, flat_settings, load_config
from taidscale.config.schema import RunConfig
from taidscale.parallel.grid import Grid
from taidscale.preflight import Prepared

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
STUDENT_FOLDER = "student"
GENERATION_FILE = "generation_config.json"


def open_run_folder(config: RunConfig, prepared: Prepared, grid: Grid) -> None:
    """Create it, or compare its settings with those of an earlier start, on the first rank.

    Raises:
        ValueError: if it cannot be written.
    """
    if not grid.is_first:
        return
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        path = config.run_dir / CONFIG_FILE
        if path.exists():
            _log_differences(flat_settings(load_config(path)), flat_settings(config))
        _write_aside(path, dump_config(config))
        student = config.run_dir / STUDENT_FOLDER
        prepared.student.save_pretrained(student)
        tokenizer = prepared.vocabulary.tokenizer.hf
        assert tokenizer is not None, "model folders hold Hugging Face tokenizers"
        tokenizer.save_pretrained(student)
        generation = Path(tokenizer.name_or_path) / GENERATION_FILE
        if generation.is_file():
            shutil.copy(generation, student / GENERATION_FILE)
    except OSError as error:
        raise ValueError(f"run_dir: cannot write to {config.run_dir}: {error}") from None


def _log_differences(before: dict[str, object], now: dict[str, object]) -> None:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            log.warning(
                "%s was %r when this run was last started and is %r now",
                name,
                before.get(name),
                now.get(name),
            )


def _write_aside(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)

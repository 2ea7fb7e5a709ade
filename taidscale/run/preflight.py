"""What must hold before any weights are loaded."""

import logging
import os
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, assert_never

import wandb
from transformers import PretrainedConfig
from transformers.utils import is_flash_attn_2_available

from taidscale.checkpoint.export import LINEAGE_FILE
from taidscale.config.schema import FreshInit, PretrainedInit, RunConfig, TeacherLayersInit
from taidscale.data.check_shards import check_shards
from taidscale.data.manifest import Manifest, check_manifest, fetch_manifest
from taidscale.data.overlap import Prepared as PreparedData
from taidscale.data.overlap import find_overlap
from taidscale.home import at_home
from taidscale.models.families import model_folder, read_model_config
from taidscale.models.load import check_weights
from taidscale.models.rope import changes_with_length
from taidscale.models.student import student_config
from taidscale.models.trunk import BLIND_TO_DOCUMENTS
from taidscale.models.vocabulary import VocabularyContract, agree_on_vocabulary
from taidscale.models.weights import find_weights
from taidscale.teachers.split import warn_of_uneven_heads

log = logging.getLogger(__name__)
INHERITED_FILES = ("generation_config.json", LINEAGE_FILE)


@dataclass(frozen=True)
class Prepared:
    """What the checks found out."""

    vocabulary: VocabularyContract
    teacher_folder: Path | None
    teacher: PretrainedConfig | None
    student: PretrainedConfig
    inherited: list[Path]
    """Files of the model that the student's weights come from, which the student hands on."""


def prepare(config: RunConfig) -> Prepared:
    """Read every configuration, tokenizer and manifest that the run names, and compare them.

    Raises:
        ValueError: with all problems that do not hide each other, a line each.
    """
    folder = teacher = student = vocabulary = None
    problems: list[str] = []
    try:
        if config.teacher is not None:
            folder = model_folder(config.teacher.model, config.teacher.revision, "teacher.model")
            teacher = read_model_config(folder, "teacher.model")
            warn_of_uneven_heads(teacher, config.teacher.tp_size)
            check_weights(teacher, find_weights(folder, "teacher.model"), "teacher.model")
    except ValueError as error:
        problems.append(str(error))
    try:
        student = student_config(config)
        if isinstance(init := config.student.init, PretrainedInit):
            setting = "student.init.model"
            folder_of_student = model_folder(init.model, init.revision, setting)
            check_weights(student, find_weights(folder_of_student, setting), setting)
        vocabulary = agree_on_vocabulary(config, teacher, student)
    except ValueError as error:
        problems.append(str(error))
    problems += _data_problems(config, vocabulary)
    problems += _model_problems(config, teacher, student)
    problems += _wandb_problems(config)
    problems += _tensorboard_problems(config)
    if problems:
        raise ValueError("\n  ".join(dict.fromkeys(problems)))
    assert student is not None
    assert vocabulary is not None
    return Prepared(vocabulary, folder, teacher, student, _inherited_files(config, folder))


def _data_problems(config: RunConfig, vocabulary: VocabularyContract | None) -> list[str]:
    fits: Any = {
        "seq_len": config.seq_len,
        "fingerprint": vocabulary.fingerprint if vocabulary else None,
        "vocab_size": vocabulary.tokenizer.size if vocabulary else 2**32,
    }
    sources = [
        (f"data.streams.{number}", stream.local, stream.remote)
        for number, stream in enumerate(config.data.streams)
    ]
    if config.evaluation is not None:
        single = isinstance(config.evaluation.data, str)
        sources += [
            ("evaluation.data" if single else f"evaluation.data.{name}", folder, None)
            for name, folder in config.evaluation.folders.items()
        ]
    problems, found = [], dict[str, PreparedData]()
    for setting, local, remote in sources:
        try:
            if remote is None:
                manifest = check_shards(at_home(local), **fits)
            elif os.environ["LOCAL_RANK"] == "0":  # shards are checked when they come
                check_manifest(manifest := fetch_manifest(remote), remote, **fits)
            else:
                continue
            found[setting] = PreparedData(remote or local, remote is not None, manifest)
            _warn_of_chats(setting, manifest, config.data.attention)
            if vocabulary:
                _check_boundaries(manifest, vocabulary)
        except ValueError as error:
            problems.append(f"{setting}: {error}")
    if os.environ["RANK"] == "0" and config.evaluation is not None:
        problems += _overlap_problems(found, allowed=config.evaluation.allow_training_data)
    return problems


def _check_boundaries(manifest: Manifest, vocabulary: VocabularyContract) -> None:
    """Refuse data in which tokens that the teacher does not share are everywhere.

    Raises:
        ValueError: they stand between documents.
    """
    has_separators = manifest.separate == "all" or manifest.num_padding_tokens > 0
    for remedy, index in (
        ("with another --separator-id", manifest.separator_id if has_separators else None),
        ("without --bos", manifest.bos_id),
    ):
        if index is not None and index in vocabulary.left_out:
            raise ValueError(
                f"{vocabulary.left_out[index]!r} (id {index}) stands between documents, and "
                f"teacher and student share the ids up to {vocabulary.size - 1} "
                f"(teacher.vocabulary: shared_prefix); prepare the data {remedy}"
            )


def _overlap_problems(found: dict[str, PreparedData], *, allowed: bool) -> list[str]:
    """Compare what is held out with what is trained on; some in common is worth a warning."""
    problems = []
    streams = {name: data for name, data in found.items() if name.startswith("data.")}
    for (name, held_out), (stream, training) in product(found.items(), streams.items()):
        if name in streams:
            continue
        total = held_out.manifest.num_samples
        try:
            overlap = find_overlap(held_out, training)
        except ValueError as error:
            problems.append(f"{name}: {error}")
            continue
        said = f"{name}: {overlap.num_samples:,} of its {total:,} samples are in {stream}"
        if overlap.num_samples == total and not allowed:
            problems.append(
                f"{said} too, so that it measures what was learnt by heart; hold out other text, "
                "or set evaluation.allow_training_data to true"
            )
        elif overlap.num_samples:
            log.warning("%s, which is trained on", said)
        if not overlap.is_exact:
            log.warning(
                "%s is compared with %s by whole shards only: the hashes of their samples are not "
                "there, or too large to fetch; newer shards have them",
                name,
                stream,
            )
    return problems


def _warn_of_chats(setting: str, manifest: Manifest, attention: str) -> None:
    is_apart = attention == "within_document" or not manifest.has_chats_together
    if os.environ["RANK"] == "0" and not is_apart:
        log.warning(
            "data.attention: across_documents, and the samples of %s hold several chats, which "
            "then see each other; set within_document",
            setting,
        )


def _model_problems(
    config: RunConfig, teacher: PretrainedConfig | None, student: PretrainedConfig | None
) -> list[str]:
    attention = config.teacher.attention if config.teacher else "sdpa"
    problems = []
    for name, model, wanted in (
        ("teacher", teacher, attention),
        ("student", student, config.student.attention),
    ):
        if model is not None and config.seq_len > model.max_position_embeddings:
            problems.append(
                f"seq_len: {config.seq_len} is more than the {model.max_position_embeddings} "
                f"positions of the {name}"
            )
        if wanted == "flash_attention_2" and not is_flash_attn_2_available():
            problems.append(
                f"{name}.attention: flash_attention_2 needs the package flash-attn and a GPU; "
                "install it, or set sdpa"
            )
        if model is not None and config.data.attention == "within_document":
            problems += _packing_problems(name, model, wanted, config.seq_len)
    return problems


def _packing_problems(
    name: str, model: PretrainedConfig, attention: str, seq_len: int
) -> list[str]:
    """What would let a document see others, or make its result depend on them."""
    problems = []
    if attention == "flash_attention_2" and model.model_type in BLIND_TO_DOCUMENTS:
        problems.append(
            f"{name}.attention: flash_attention_2 does not keep documents apart in "
            f"{model.model_type}; set sdpa, or data.attention: across_documents"
        )
    if changes_with_length(model, seq_len):
        problems.append(
            f"data.attention: within_document, and the {name}'s RoPE (longrope) changes beyond "
            f"{model.original_max_position_embeddings} positions for all that is packed in one "
            f"batch; set seq_len (now {seq_len}) to that or less, or across_documents"
        )
    return problems


def _wandb_problems(config: RunConfig) -> list[str]:
    if config.wandb.mode != "online" or os.environ["RANK"] != "0" or wandb.login(prompt=False):
        return []
    return ["wandb.mode: online, but no login was found; run `wandb login`, or set offline"]


def _tensorboard_problems(config: RunConfig) -> list[str]:
    if not config.tensorboard.enabled or find_spec("tensorboard") is not None:
        return []
    return [
        "tensorboard.enabled: true, but the package tensorboard is not installed; "
        "pip install tensorboard, or set false"
    ]


def _inherited_files(config: RunConfig, teacher: Path | None) -> list[Path]:
    init = config.student.init
    match init:
        case PretrainedInit():
            folder: Path | None = model_folder(init.model, init.revision, "student.init.model")
        case TeacherLayersInit():
            folder = teacher
        case FreshInit():
            folder = None
        case _:
            assert_never(init)
    files = [folder / name for name in INHERITED_FILES] if folder else []
    return [file for file in files if file.is_file()]

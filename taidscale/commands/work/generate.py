"""What `taidscale generate` does: find the models, load one after the other, and show it all."""

import json
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from taidscale.assessment.responses import Decoding, encode, generate, read_prompts
from taidscale.assessment.subjects import (
    DTYPES,
    Placement,
    choose_placement,
    end_as_told,
    load_folder,
)
from taidscale.checkpoint.export import load_student
from taidscale.checkpoint.folder import choose_checkpoint
from taidscale.checkpoint.manifest import MANIFEST, damage
from taidscale.config.load import load_config
from taidscale.data.tokenizer import load_tokenizer
from taidscale.durable import replace_file
from taidscale.engine.student import student_state_dict
from taidscale.file_names import CHECKPOINTS_FOLDER, CONFIG_FILE, STUDENT_FOLDER
from taidscale.home import at_home
from taidscale.models.families import attention_for, model_folder, read_model_config
from taidscale.models.load import check_weights
from taidscale.models.weights import find_weights


@dataclass(frozen=True)
class Checkpoint:
    """A run's student after some steps."""

    name: str
    """As the user wrote it."""
    folder: Path
    run_dir: Path

    @property
    def student(self) -> Path:
        """Folder with configuration and tokenizer."""
        return self.run_dir / STUDENT_FOLDER


@dataclass(frozen=True)
class Exported:
    """A folder as transformers writes it."""

    name: str
    """As the user wrote it."""
    student: Path
    """The folder."""


Source = Checkpoint | Exported


def generate_side_by_side(options: Namespace) -> None:
    """Show, and write if asked, what each model makes of each prompt.

    Raises:
        ValueError: if a model cannot be found or loaded, or a prompt leaves no room; all that can
            be known before weights are read is said before any are.
    """
    placement = choose_placement(options.device, options.dtype)
    sources = [find_source(name) for name in options.models]
    if options.teacher and (teacher := find_teacher(sources)) not in sources:
        sources.append(teacher)
    prompts = options.prompt or read_prompts(options.prompts, "prompt")
    encoded = {source: encode_prompts(source, prompts, options.chat) for source in sources}
    decoding = Decoding(options.max_new_tokens, options.temperature, options.seed, batch_size=1)
    answers: dict[str, list[str]] = {}
    for source in sources:
        answers[source.name] = answer(source, encoded[source], placement, decoding)
    for number, prompt in enumerate(prompts):
        print(f"== {prompt}")
        for name, texts in answers.items():
            print(f"-- {name}\n{texts[number]}")
        print()
    if options.out is not None:
        lines = [
            {"prompt": prompt, "answers": {name: texts[n] for name, texts in answers.items()}}
            for n, prompt in enumerate(prompts)
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        replace_file(options.out, text)


def find_source(name: str) -> Source:
    """What a name stands for.

    Raises:
        ValueError: if it is neither a run with a checkpoint, nor a whole checkpoint, nor a model
            with weights.
    """
    folder = at_home(name)
    if (folder / CONFIG_FILE).is_file():
        checkpoints = folder / CHECKPOINTS_FOLDER
        return Checkpoint(name, choose_checkpoint(checkpoints, None, hashes=True), folder)
    if (folder / MANIFEST).is_file() or (folder.is_dir() and folder.match("step-*")):
        if problem := damage(folder, hashes=True):
            raise ValueError(f"{name} is no whole checkpoint: {problem}")
        return Checkpoint(name, folder, folder.absolute().parents[1])
    return find_model(name, None)


def find_model(name: str, revision: str | None) -> Exported:
    """A model by folder or Hub id, its weights counted but not read.

    Raises:
        ValueError: if there is none, it is not understood, or weights are missing.
    """
    folder = model_folder(name, revision, name)
    check_weights(read_model_config(folder, name), find_weights(folder, name), name)
    return Exported(name, folder)


def find_teacher(sources: list[Source]) -> Exported:
    """That of the first run among them.

    Raises:
        ValueError: if there is no run, or it has none.
    """
    run_dir = next((s.run_dir for s in sources if isinstance(s, Checkpoint)), None)
    if run_dir is None:
        raise ValueError("--teacher: none of the models is of a run; name the teacher itself")
    teacher = load_config(run_dir / CONFIG_FILE).teacher
    if teacher is None:
        raise ValueError(f"--teacher: the run {run_dir} has none")
    return find_model(teacher.model, teacher.revision)


def encode_prompts(source: Source, prompts: list[str], as_chat: bool) -> list[list[int]]:
    """Ids of the prompts for one model.

    Raises:
        ValueError: if the model knows no chats, or a prompt leaves no place for an answer.
    """
    tokenizer: Any = load_tokenizer(str(source.student)).hf
    if as_chat and not tokenizer.chat_template:
        raise ValueError(f"{source.name}: its tokenizer has no chat template; leave out --chat")
    places = read_model_config(source.student, source.name).max_position_embeddings
    encoded = [encode(tokenizer, prompt, as_chat=as_chat) for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if not 0 < len(ids) < places:
            raise ValueError(
                f"the prompt {prompt[:60]!r} has {len(ids):,} tokens, and {source.name} "
                f"{places:,} places, one of which is for an answer"
            )
    return encoded


def answer(
    source: Source, encoded: list[list[int]], placement: Placement, decoding: Decoding
) -> list[str]:
    """What one model says; its memory is free afterwards.

    Raises:
        ValueError: if weights are damaged, or the device has no room.
    """
    tokenizer: Any = load_tokenizer(str(source.student)).hf
    try:
        model = load(source, placement)
        return [
            generate(model, tokenizer, [ids], decoding)[0]
            for ids in tqdm(encoded, desc=source.name, unit="answer")
        ]
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise ValueError(
            f"{source.name}: {reason}; use --dtype bf16, fewer --max-new-tokens or --device cpu"
        ) from None


def load(source: Source, placement: Placement) -> PreTrainedModel:
    """The model, on the device, for inference.

    Raises:
        ValueError: if weights are missing or damaged.
    """
    match source:
        case Exported():
            return load_folder(source.student, placement, source.name)
        case Checkpoint():
            weights = student_state_dict(source.folder)
            model = load_student(weights, source.student, DTYPES[placement.dtype])
            model.set_attn_implementation(attention_for(model.config, "sdpa"))
            end_as_told(model, source.student)
            loaded: PreTrainedModel = model.eval().to(placement.device)
            return loaded
        case _:
            assert_never(source)

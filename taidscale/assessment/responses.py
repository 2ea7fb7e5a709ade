"""What a model answers to prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from taidscale.assessment.comparison import Models
from taidscale.assessment.journal import Journal
from taidscale.assessment.subjects import TITLES, Subject, enough_memory
from taidscale.corpus.documents import Reading, Sources
from taidscale.data.counts import refuse
from taidscale.models.families import read_model_config


@dataclass(frozen=True)
class Decoding:
    """How answers are generated."""

    max_new_tokens: int
    temperature: float
    """0 takes the likeliest token each time."""
    seed: int
    """Of the draws where the temperature is not 0."""
    batch_size: int


def read_prompts(path: Path, column: str) -> list[str]:
    """Prompts from a file: each line of `.txt`, or a column of `.jsonl` or `.parquet`.

    Raises:
        ValueError: There are none, or they cannot be read.
    """
    prompts = list(Sources([str(path)], Reading(text_column=column, split_on="\n")).texts(refuse))
    if not prompts:
        raise ValueError(f"{path} holds no prompts")
    return prompts


def check_room(subject: Subject, prompts: Sequence[str]) -> None:
    """Make sure, before any work, that each prompt leaves a model room for an answer.

    Raises:
        ValueError: One does not.
    """
    config = read_model_config(subject.folder, TITLES[subject.role])
    for prompt in prompts:
        size = len(_encode(subject, prompt))
        if size >= config.max_position_embeddings:
            raise ValueError(
                f"the prompt {prompt[:60]!r} ... has {size:,} tokens, and the "
                f"{TITLES[subject.role]} {config.max_position_embeddings:,} places; "
                "leave it out, or shorten it"
            )


def generate_responses(
    subject: Subject,
    prompts: Sequence[str],
    models: Models,
    journal: Journal,
    decoding: Decoding,
    title: str,
) -> list[str]:
    """An answer to each prompt, as a user's turn where the tokenizer has a chat template.

    Args:
        subject: The model.
        prompts: In order.
        models: Where it is loaded.
        journal: Of what is finished.
        decoding: How.
        title: Of the progress bar.
    """
    asked = list(dict.fromkeys(prompts))
    keys = {prompt: _key(subject, prompt, models, decoding) for prompt in asked}
    missing = [prompt for prompt in asked if journal.get(keys[prompt]) is None]
    size = decoding.batch_size
    with tqdm(total=len(missing), desc=f"{TITLES[subject.role]}, {title}", unit="answer") as bar:
        for start in range(0, len(missing), size):
            batch = missing[start : start + size]
            encoded = [_encode(subject, prompt) for prompt in batch]
            with enough_memory():
                answers = generate(models.get(subject), subject.tokenizer.hf, encoded, decoding)
            for prompt, answer in zip(batch, answers, strict=True):
                journal.put(keys[prompt], answer.strip())
            bar.update(len(batch))
    return [journal.get(keys[prompt]) for prompt in prompts]


def _key(subject: Subject, prompt: str, models: Models, decoding: Decoding) -> dict[str, Any]:
    greedy = decoding.temperature == 0
    return models.key(subject) | {
        "prompt": prompt,
        "max_new_tokens": decoding.max_new_tokens,
        "temperature": decoding.temperature,
        "seed": None if greedy else decoding.seed,
    }


def _encode(subject: Subject, prompt: str) -> list[int]:
    tokenizer: Any = subject.tokenizer.hf
    return encode(tokenizer, prompt, as_chat=bool(tokenizer.chat_template))


def generate(
    model: PreTrainedModel, tokenizer: Any, encoded: Sequence[list[int]], decoding: Decoding
) -> list[str]:
    """What follows each prompt, without control tokens.

    Args:
        model: Any causal language model of transformers.
        tokenizer: Its Hugging Face tokenizer.
        encoded: Ids of the prompts, which leave the model places for at least one token.
        decoding: How; its batch size is that of the caller.
    """
    width = max(map(len, encoded))
    room = min(decoding.max_new_tokens, int(model.config.max_position_embeddings) - width)
    padding = tokenizer.pad_token_id
    padding = padding if padding is not None else tokenizer.eos_token_id
    ids = torch.full((len(encoded), width), 0 if padding is None else padding)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(encoded):  # to the right, where the answer begins
        ids[row, width - len(tokens) :] = torch.tensor(tokens)
        mask[row, width - len(tokens) :] = 1
    draws: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if decoding.temperature > 0:
        torch.manual_seed(decoding.seed)
        draws = {"do_sample": True, "temperature": decoding.temperature, "top_p": 1.0, "top_k": 0}
    with torch.inference_mode():
        out = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=room,
            pad_token_id=padding,
            repetition_penalty=1.0,
            **draws,
        )
    answers: list[str] = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
    return answers


def encode(tokenizer: Any, prompt: str, *, as_chat: bool) -> list[int]:
    """Ids of a prompt as it stands, or as a user's turn before that of the assistant."""
    if not as_chat:
        plain: list[int] = tokenizer(prompt).input_ids
        return plain
    turn = [{"role": "user", "content": prompt}]
    ids: list[int] = tokenizer.apply_chat_template(
        turn, add_generation_prompt=True, return_dict=False
    )
    return ids

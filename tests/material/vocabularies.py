"""Tokenizers of the kinds that real models have, trained on the texts here in seconds."""

import json
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import LlamaTokenizerFast, PreTrainedTokenizerFast

FIRST_CONTROL_ID = 151_643
"""As in Qwen2.5, so that ids take four bytes; what training leaves free is never used."""
CONTROL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
NO_CONTROL = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
JAPANESE_CONTROL = ("mask", "pad", "CLS", "SEP", "EOD")


def save_chat_tokenizer(folder: Path, texts: list[str]) -> None:
    """Byte-level BPE with NFC, a chat template and the control tokens of Qwen2.5."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    newlines = ["a" + "\n" * count for count in (2, 3, 4) for _ in range(1000)]
    tokenizer.train_from_iterator([*texts, *newlines], trainer)
    saved = json.loads(tokenizer.to_str())
    vocabulary = saved["model"]["vocab"]
    for number in range(len(vocabulary), FIRST_CONTROL_ID):
        vocabulary[f"<|unused-{number}|>"] = number
    tokenizer = Tokenizer.from_str(json.dumps(saved))
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in CONTROL])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in NO_CONTROL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[n for n in CONTROL if n != "<|endoftext|>"],
        model_max_length=131_072,
        clean_up_tokenization_spaces=False,
        split_special_tokens=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def save_japanese_tokenizer(folder: Path, texts: list[str]) -> None:
    """Unigram with byte fallback, as a Hugging Face tokenizer with the names of LLM-jp's."""
    folder.mkdir()
    names = {f"{kind}_piece": f"<{name}|LLM-jp>" for kind, name in
             (("unk", "unk"), ("bos", "s"), ("eos", "/s"))}  # fmt: skip
    control = [f"<{name}|LLM-jp>" for name in JAPANESE_CONTROL]
    train_sentencepiece(
        folder / "tokenizer.spm.model", texts, "unigram", 2000, control_symbols=control, **names
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.spm.model"))
    pieces = [(model.id_to_piece(k), model.get_score(k)) for k in range(len(model))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    start = Regex(r"(?<!\n)^")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(start, "▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Replace("▁", " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r"(?<!\n)^ "), ""),
        ]
    )
    special = [*names.values(), *control]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    end = "<EOD|LLM-jp>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    roles = {"pad_token": "pad", "cls_token": "CLS", "sep_token": "SEP", "mask_token": "mask"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=names["unk_piece"],
        bos_token=names["bos_piece"],
        eos_token=end,
        additional_special_tokens=[names["eos_piece"]],
        clean_up_tokenization_spaces=False,
        **{role: f"<{name}|LLM-jp>" for role, name in roles.items()},
    ).save_pretrained(folder)


def save_llama_tokenizer(folder: Path, texts: list[str], vocab_size: int) -> None:
    """BPE with byte fallback, as Llama's: a SentencePiece model and the fast tokenizer of it."""
    folder.mkdir(exist_ok=True)
    path = folder / "tokenizer.model"
    train_sentencepiece(path, texts, "bpe", vocab_size)
    LlamaTokenizerFast(vocab_file=str(path), pad_token="<unk>", legacy=False).save_pretrained(
        folder
    )


def train_sentencepiece(
    path: Path, texts: list[str], kind: str, vocab_size: int, **settings: Any
) -> None:
    """A `.model` in the manner of Mistral's and LLM-jp's."""
    lines = (line for text in texts for line in text.splitlines() if line)
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=file,
            model_type=kind,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=1 << 16,
            num_threads=1,
            minloglevel=2,
            **settings,
        )

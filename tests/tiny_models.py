"""Models and tokenizers of a few kilobytes, in the formats of real ones."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_GROUPED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "n_group": 2,
    "topk_group": 1,
}
_OF_FAMILY: dict[str, dict[str, Any]] = {
    "phi3": {"pad_token_id": 0},
    "glm4_moe": _GROUPED,
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 8},
    "qwen3_moe": _EXPERTS,
    "mixtral": {"num_local_experts": 4},
    "deepseek_v3": {
        **_GROUPED,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 4,
    },
}
WITHOUT: dict[str, tuple[str, ...]] = {
    "gpt_neox": ("num_key_value_heads", "head_dim"),
    **dict.fromkeys(("deepseek_v3", "phi", "qwen2_moe", "stablelm"), ("head_dim",)),
}
"""Entries that a family does not have."""


def save_tiny_model(
    folder: Path,
    family: str,
    *,
    vocab_size: int,
    hidden_size: int = 16,
    tied: bool = True,
    seed: int = 0,
    **settings: Any,
) -> None:
    """A random model of one family with 4 heads and 4 key-value heads, in several files."""
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "tie_word_embeddings": tied,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
        **_OF_FAMILY.get(family, {}),
        **settings,
    }
    for name in WITHOUT.get(family, ()):
        sizes.pop(name)
    config = AutoConfig.for_model(family, **sizes)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, max_shard_size="20KB")


def save_byte_tokenizer(folder: Path, extra: tuple[str, ...] = ()) -> None:
    """A tokenizer of 256 bytes, `<|end|>` as the document separator, and `extra` tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate([*alphabet, "<|end|>", *extra])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.save_pretrained(folder)


def add_tokens(folder: Path, tokens: tuple[str, ...]) -> None:
    """Put tokens behind those of a tokenizer, which then finds them in texts."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
    tokenizer.save_pretrained(folder)

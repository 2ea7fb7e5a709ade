"""A tokenizer that needs nothing but the clone."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SEPARATOR = "<|end|>"


def save_tiny_tokenizer(folder: Path) -> None:
    """A Hugging Face tokenizer with one token per byte, and one that ends documents."""
    bytes_of_text = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE(vocab={token: index for index, token in enumerate(bytes_of_text)}, merges=[])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SEPARATOR, model_max_length=16
    ).save_pretrained(folder)

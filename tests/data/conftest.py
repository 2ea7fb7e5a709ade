"""Tokenizers and shards that need nothing but the clone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streaming import MDSWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SEPARATOR = "<|end|>"


@pytest.fixture(scope="session")
def tiny_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face tokenizer with one token per byte, and one that ends documents."""
    bytes_of_text = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE(vocab={token: index for index, token in enumerate(bytes_of_text)}, merges=[])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SEPARATOR, model_max_length=16
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def numbered_shards(tmp_path: Path) -> Callable[..., Path]:
    """Make shards where each token of sample k is first + k, 4 samples to a shard."""

    def make(num_samples: int, seq_len: int, first: int = 0) -> Path:
        folder = tmp_path / f"shards-{num_samples}-{seq_len}"
        columns = {"tokens": f"ndarray:uint16:{seq_len + 1}"}
        settings = {"columns": columns, "out": str(folder), "hashes": ["xxh64"]}
        header = MDSWriter(**settings).extra_bytes_per_shard + 8  # size_limit is part of it
        size_limit = header + 4 * (2 * (seq_len + 1) + 4)
        with MDSWriter(**settings, size_limit=size_limit) as writer:
            for number in range(first, first + num_samples):
                writer.write({"tokens": np.full(seq_len + 1, number, np.uint16)})
        return folder

    return make

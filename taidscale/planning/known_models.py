"""Entries of the `config.json` of models that are planned for most, by their Hub ids.

Only what decides sizes; the parameter counts that follow are the published ones.
"""

from typing import Any

_COLUMNS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
)
_Row = tuple[int, int, int, int, int, int, int, bool]

_QWEN2: dict[str, _Row] = {
    "0.5B": (896, 4864, 24, 14, 2, 64, 151_936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 128, 151_936, True),
    "3B": (2048, 11_008, 36, 16, 2, 128, 151_936, True),
    "7B": (3584, 18_944, 28, 28, 4, 128, 152_064, False),
    "14B": (5120, 13_824, 48, 40, 8, 128, 152_064, False),
    "32B": (5120, 27_648, 64, 40, 8, 128, 152_064, False),
    "72B": (8192, 29_568, 80, 64, 8, 128, 152_064, False),
}
_QWEN3: dict[str, _Row] = {
    "0.6B": (1024, 3072, 28, 16, 8, 128, 151_936, True),
    "1.7B": (2048, 6144, 28, 16, 8, 128, 151_936, True),
    "4B": (2560, 9728, 36, 32, 8, 128, 151_936, True),
    "8B": (4096, 12_288, 36, 32, 8, 128, 151_936, False),
    "14B": (5120, 17_408, 40, 40, 8, 128, 151_936, False),
    "32B": (5120, 25_600, 64, 64, 8, 128, 151_936, False),
}
_LLAMA: dict[str, _Row] = {
    "meta-llama/Llama-2-7b": (4096, 11_008, 32, 32, 32, 128, 32_000, False),
    "meta-llama/Llama-2-13b": (5120, 13_824, 40, 40, 40, 128, 32_000, False),
    "meta-llama/Llama-2-70b": (8192, 28_672, 80, 64, 8, 128, 32_000, False),
    "meta-llama/Meta-Llama-3-8B": (4096, 14_336, 32, 32, 8, 128, 128_256, False),
    "meta-llama/Meta-Llama-3-70B": (8192, 28_672, 80, 64, 8, 128, 128_256, False),
    "meta-llama/Llama-3.1-8B": (4096, 14_336, 32, 32, 8, 128, 128_256, False),
    "meta-llama/Llama-3.1-70B": (8192, 28_672, 80, 64, 8, 128, 128_256, False),
    "meta-llama/Llama-3.1-405B": (16_384, 53_248, 126, 128, 8, 128, 128_256, False),
    "meta-llama/Llama-3.2-1B": (2048, 8192, 16, 32, 8, 64, 128_256, True),
    "meta-llama/Llama-3.2-3B": (3072, 8192, 28, 24, 8, 128, 128_256, True),
    "meta-llama/Llama-3.3-70B": (8192, 28_672, 80, 64, 8, 128, 128_256, False),
    "TinyLlama/TinyLlama_v1.1": (2048, 5632, 22, 32, 4, 64, 32_000, False),
    "HuggingFaceTB/SmolLM2-135M": (576, 1536, 30, 9, 3, 64, 49_152, True),
    "HuggingFaceTB/SmolLM2-360M": (960, 2560, 32, 15, 5, 64, 49_152, True),
    "HuggingFaceTB/SmolLM2-1.7B": (2048, 8192, 24, 32, 32, 64, 49_152, True),
}
_MISTRAL: dict[str, _Row] = {
    "mistralai/Mistral-7B-v0.1": (4096, 14_336, 32, 32, 8, 128, 32_000, False),
    "mistralai/Mistral-7B-v0.3": (4096, 14_336, 32, 32, 8, 128, 32_768, False),
}
_GEMMA: dict[str, _Row] = {
    "google/gemma-2b": (2048, 16_384, 18, 8, 1, 256, 256_000, True),
    "google/gemma-7b": (3072, 24_576, 28, 16, 16, 256, 256_000, True),
}
_GEMMA2: dict[str, _Row] = {
    "google/gemma-2-2b": (2304, 9216, 26, 8, 4, 256, 256_000, True),
    "google/gemma-2-9b": (3584, 14_336, 42, 16, 8, 256, 256_000, True),
    "google/gemma-2-27b": (4608, 36_864, 46, 32, 16, 128, 256_000, True),
}


def _named() -> dict[str, dict[str, Any]]:
    tables: list[tuple[str, str, dict[str, _Row], tuple[str, ...]]] = [
        ("qwen2", "Qwen/Qwen2.5-", _QWEN2, ("", "-Instruct")),
        ("qwen3", "Qwen/Qwen3-", _QWEN3, ("", "-Base")),
        ("llama", "", _LLAMA, ("", "-Instruct", "-hf", "-chat-hf")),
        ("mistral", "", _MISTRAL, ("",)),
        ("gemma", "", _GEMMA, ("", "-it")),
        ("gemma2", "", _GEMMA2, ("", "-it")),
    ]
    found: dict[str, dict[str, Any]] = {}
    for family, prefix, rows, suffixes in tables:
        for name, row in rows.items():
            entries = {"model_type": family, **dict(zip(_COLUMNS, row, strict=True))}
            found |= {prefix + name + suffix: entries for suffix in suffixes}
    found["mistralai/Mistral-7B-Instruct-v0.1"] = found["mistralai/Mistral-7B-v0.1"]
    found["mistralai/Mistral-7B-Instruct-v0.2"] = found["mistralai/Mistral-7B-v0.1"]
    found["mistralai/Mistral-7B-Instruct-v0.3"] = found["mistralai/Mistral-7B-v0.3"]
    return found


KNOWN_MODELS = _named()
"""Entries of `config.json` by Hub id."""

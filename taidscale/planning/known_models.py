"""Entries of the `config.json` of models that are planned for most, by their Hub ids.

Only what decides sizes; the parameter counts that follow are the published ones. Of models that see
images too, these are the entries of their language model.
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
_DATED = ("-Instruct-2507", "-Thinking-2507")
_QWEN3_SPARSE: dict[str, _Row] = {
    "30B-A3B": (2048, 6144, 48, 32, 4, 128, 151_936, False),
    "235B-A22B": (4096, 12_288, 94, 64, 4, 128, 151_936, False),
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
    "Mistral-7B-v0.1": (4096, 14_336, 32, 32, 8, 128, 32_000, False),
    "Mistral-7B-Instruct-v0.1": (4096, 14_336, 32, 32, 8, 128, 32_000, False),
    "Mistral-7B-Instruct-v0.2": (4096, 14_336, 32, 32, 8, 128, 32_000, False),
    "Mistral-7B-v0.3": (4096, 14_336, 32, 32, 8, 128, 32_768, False),
    "Mistral-7B-Instruct-v0.3": (4096, 14_336, 32, 32, 8, 128, 32_768, False),
    "Mistral-Nemo-Base-2407": (5120, 14_336, 40, 32, 8, 128, 131_072, False),
    "Mistral-Nemo-Instruct-2407": (5120, 14_336, 40, 32, 8, 128, 131_072, False),
    "Ministral-8B-Instruct-2410": (4096, 12_288, 36, 32, 8, 128, 131_072, False),
    "Mistral-Small-24B-Base-2501": (5120, 32_768, 40, 32, 8, 128, 131_072, False),
    "Mistral-Small-24B-Instruct-2501": (5120, 32_768, 40, 32, 8, 128, 131_072, False),
    "Mistral-Small-3.1-24B-Base-2503": (5120, 32_768, 40, 32, 8, 128, 131_072, False),
    "Mistral-Small-3.1-24B-Instruct-2503": (5120, 32_768, 40, 32, 8, 128, 131_072, False),
    "Mistral-Small-3.2-24B-Instruct-2506": (5120, 32_768, 40, 32, 8, 128, 131_072, False),
}
_WINDOWS = {
    "Mistral-7B-v0.1": 4096,
    "Mistral-7B-Instruct-v0.1": 4096,
    "Ministral-8B-Instruct-2410": 32_768,
    "Phi-3-mini-4k-instruct": 2047,
    "Phi-3-medium-4k-instruct": 2047,
    "google/gemma-3-270m": 512,
    "google/gemma-3-1b": 512,
    "google/gemma-3-4b": 1024,
    "google/gemma-3-12b": 1024,
    "google/gemma-3-27b": 1024,
}
"""Keys that a query sees; in models of these families that are not here, all before it."""
_MIXTRAL: dict[str, _Row] = {
    "Mixtral-8x7B-v0.1": (4096, 14_336, 32, 32, 8, 128, 32_000, False),
    "Mixtral-8x7B-Instruct-v0.1": (4096, 14_336, 32, 32, 8, 128, 32_000, False),
    "Mixtral-8x22B-v0.1": (6144, 16_384, 56, 48, 8, 128, 32_000, False),
    "Mixtral-8x22B-Instruct-v0.1": (6144, 16_384, 56, 48, 8, 128, 32_768, False),
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
_GEMMA3: dict[str, _Row] = {
    "google/gemma-3-270m": (640, 2048, 18, 4, 1, 256, 262_144, True),
    "google/gemma-3-1b": (1152, 6912, 26, 4, 1, 256, 262_144, True),
    "google/gemma-3-4b": (2560, 10_240, 34, 8, 4, 256, 262_208, True),
    "google/gemma-3-12b": (3840, 15_360, 48, 16, 8, 256, 262_208, True),
    "google/gemma-3-27b": (5376, 21_504, 62, 32, 16, 128, 262_208, True),
}
_PHI3: dict[str, _Row] = {
    "Phi-3-mini-4k-instruct": (3072, 8192, 32, 32, 32, 96, 32_064, False),
    "Phi-3-mini-128k-instruct": (3072, 8192, 32, 32, 32, 96, 32_064, False),
    "Phi-3.5-mini-instruct": (3072, 8192, 32, 32, 32, 96, 32_064, False),
    "Phi-3-medium-4k-instruct": (5120, 17_920, 40, 40, 10, 128, 32_064, False),
    "Phi-3-medium-128k-instruct": (5120, 17_920, 40, 40, 10, 128, 32_064, False),
    "phi-4": (5120, 17_920, 40, 40, 10, 128, 100_352, False),
    "Phi-4-mini-instruct": (3072, 8192, 32, 24, 8, 128, 200_064, True),
}
_OLMO2: dict[str, _Row] = {
    "allenai/OLMo-2-0425-1B": (2048, 8192, 16, 16, 16, 128, 100_352, False),
    "allenai/OLMo-2-1124-7B": (4096, 11_008, 32, 32, 32, 128, 100_352, False),
    "allenai/OLMo-2-1124-13B": (5120, 13_824, 40, 40, 40, 128, 100_352, False),
    "allenai/OLMo-2-0325-32B": (5120, 27_648, 64, 40, 8, 128, 100_352, False),
}
_PYTHIA: dict[str, _Row] = {
    "EleutherAI/pythia-70m": (512, 2048, 6, 8, 8, 64, 50_304, False),
    "EleutherAI/pythia-160m": (768, 3072, 12, 12, 12, 64, 50_304, False),
    "EleutherAI/pythia-410m": (1024, 4096, 24, 16, 16, 64, 50_304, False),
    "EleutherAI/pythia-1b": (2048, 8192, 16, 8, 8, 256, 50_304, False),
    "EleutherAI/pythia-1.4b": (2048, 8192, 24, 16, 16, 128, 50_304, False),
    "EleutherAI/pythia-2.8b": (2560, 10_240, 32, 32, 32, 80, 50_304, False),
    "EleutherAI/pythia-6.9b": (4096, 16_384, 32, 32, 32, 128, 50_432, False),
    "EleutherAI/pythia-12b": (5120, 20_480, 36, 40, 40, 128, 50_688, False),
}
_STABLELM: dict[str, _Row] = {
    "stabilityai/stablelm-3b-4e1t": (2560, 6912, 32, 32, 32, 80, 50_304, False),
    "stabilityai/stablelm-zephyr-3b": (2560, 6912, 32, 32, 32, 80, 50_304, False),
}
_SMOLLM3: dict[str, _Row] = {
    "HuggingFaceTB/SmolLM3-3B": (2048, 11_008, 36, 16, 4, 128, 128_256, True),
}
_QWEN2_SPARSE: dict[str, _Row] = {
    "Qwen/Qwen1.5-MoE-A2.7B": (2048, 5632, 24, 16, 16, 128, 151_936, False),
}
_GLM4_SPARSE: dict[str, _Row] = {
    "zai-org/GLM-4.5-Air": (4096, 10_944, 46, 96, 8, 128, 151_552, False),
}
_DEEPSEEK: dict[str, _Row] = {  # its head_dim is what RoPE turns
    "V3": (7168, 18_432, 61, 128, 128, 64, 129_280, False),
    "R1": (7168, 18_432, 61, 128, 128, 64, 129_280, False),
}
_OF_FAMILY: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen2_moe": {
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    "qwen3_moe": {"num_experts": 128, "num_experts_per_tok": 8},
    "glm4_moe": {
        "attention_bias": True,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "use_qk_norm": False,
    },
    "deepseek_v3": {
        "first_k_dense_replace": 3,
        "kv_lora_rank": 512,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    },
}
"""Entries that all of a family here have besides."""
_WITHOUT = {"gpt_neox": ("num_key_value_heads", "head_dim"), "stablelm": ("head_dim",)}
"""Entries that a family does not have."""
_OF_MODEL: dict[str, dict[str, Any]] = {
    **{name: {"sliding_window": _WINDOWS.get(name)} for name in (*_MISTRAL, *_PHI3, *_GEMMA3)},
    "30B-A3B": {"moe_intermediate_size": 768},
    "235B-A22B": {"moe_intermediate_size": 1536},
}


def _named() -> dict[str, dict[str, Any]]:
    tables: list[tuple[str, str, dict[str, _Row], tuple[str, ...]]] = [
        ("qwen2", "Qwen/Qwen2.5-", _QWEN2, ("", "-Instruct")),
        ("qwen3", "Qwen/Qwen3-", _QWEN3, ("", "-Base")),
        ("qwen3_moe", "Qwen/Qwen3-", _QWEN3_SPARSE, ("", "-Base", *_DATED)),
        ("qwen2_moe", "", _QWEN2_SPARSE, ("", "-Chat")),
        ("llama", "", _LLAMA, ("", "-Instruct", "-hf", "-chat-hf")),
        ("mistral", "mistralai/", _MISTRAL, ("",)),
        ("mixtral", "mistralai/", _MIXTRAL, ("",)),
        ("gemma", "", _GEMMA, ("", "-it")),
        ("gemma2", "", _GEMMA2, ("", "-it")),
        ("gemma3_text", "", _GEMMA3, ("", "-pt", "-it")),
        ("phi3", "microsoft/", _PHI3, ("",)),
        ("olmo2", "", _OLMO2, ("", "-SFT", "-DPO", "-Instruct")),
        ("gpt_neox", "", _PYTHIA, ("", "-deduped")),
        ("stablelm", "", _STABLELM, ("",)),
        ("smollm3", "", _SMOLLM3, ("", "-Base")),
        ("glm4_moe", "", _GLM4_SPARSE, ("", "-Base")),
        ("deepseek_v3", "deepseek-ai/DeepSeek-", _DEEPSEEK, ("", "-Base", "-0324", "-0528")),
    ]
    found: dict[str, dict[str, Any]] = {}
    for family, prefix, rows, suffixes in tables:
        for name, row in rows.items():
            entries = {"model_type": family, **dict(zip(_COLUMNS, row, strict=True))}
            entries |= _OF_FAMILY.get(family, {}) | _OF_MODEL.get(name, {})
            for missing in _WITHOUT.get(family, ()):
                del entries[missing]
            found |= {prefix + name + suffix: entries for suffix in suffixes}
    return found


KNOWN_MODELS = _named()
"""Entries of `config.json` by Hub id."""
_GPT_OSS = (
    "its attention has sinks, a learnt score for attending to nothing, and its experts are "
    "clamped, with biases, and stored in MXFP4; none of that is understood"
)
UNSUPPORTED = {"openai/gpt-oss-20b": _GPT_OSS, "openai/gpt-oss-120b": _GPT_OSS}
"""What stands against well-known models, by Hub id."""

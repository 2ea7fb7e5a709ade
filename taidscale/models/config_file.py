"""What a config.json says of a model: read in one place, and each entry honoured or refused."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig
from transformers.activations import ACT2FN

from taidscale.models.installed import TRANSFORMERS
from taidscale.models.newer_rope import newer_rope
from taidscale.models.quantization import check_quantization
from taidscale.models.rope import check_base, plain_rope, rope_entries

CONFIG_FILE = "config.json"
WRAPPERS = {"gemma3": "gemma3_text", "mistral3": "mistral"}
"""Models that see images, and the family of the text model inside, which alone is used."""
_OF_THE_WHOLE = ("tie_word_embeddings", "quantization_config", "bos_token_id", "eos_token_id")
"""Entries of a wrapper that hold for its text model, unless that has its own."""
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
)
_NEVER_NULL = frozenset(
    {
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "max_position_embeddings", "rms_norm_eps", "initializer_range"),
        *("attention_dropout", "query_pre_attn_scalar", "tie_word_embeddings"),
    }
)
"""Entries for which transformers has a default only where they are not there."""
_ALSO_READ = frozenset({"head_dim", "dtype", "torch_dtype"})
"""By the models, though not every family's configuration names them."""
_PATTERNED = frozenset({"gemma3_text", "cohere2"})
"""Families that make `layer_types` of a `sliding_window_pattern`, without keeping it."""
_DERIVED_HEADS = frozenset({"gpt_neox", "phi", "qwen2_moe", "stablelm"})
"""Families whose heads are as large as `hidden_size` over their number, whatever is said."""
_NEWER_NAMES = {"qwen3_moe": {"num_local_experts": "num_experts"}}
"""What transformers 5 calls entries when it writes them, and what both versions read."""
_FIXED: dict[str, dict[str, Any]] = {
    "deepseek_v3": {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1},
    "gemma": {"use_bidirectional_attention": False},
    "gemma2": {"use_bidirectional_attention": False},
    "gemma3_text": {"use_bidirectional_attention": False, "attn_logit_softcapping": None},
    "qwen2_moe": {"use_sliding_window": False},
    "starcoder2": {"mlp_type": "default", "norm_type": "layer_norm"},
}
"""Entries that may have one value only: transformers' layers compute what it says, and nothing
else."""
_OLD_NAMES = {
    "norm_eps": "layer_norm_eps",  # of early StableLM
    "rope_pct": "partial_rotary_factor",
    "activation_function": "hidden_act",  # of StarCoder 2
    "layer_norm_epsilon": "norm_epsilon",
}
"""Entries that say once more what others say, which alone are read."""
_PUBLISHED_CODE = {
    "phi3": ("configuration_phi3.Phi3Config", "modeling_phi3.Phi3ForCausalLM"),
    "deepseek_v3": (
        "configuration_deepseek.DeepseekV3Config",
        "modeling_deepseek.DeepseekV3Model",
        "modeling_deepseek.DeepseekV3ForCausalLM",
    ),
}
"""Code in public repositories that transformers has taken over."""
_WITHOUT_EFFECT = frozenset(
    {
        # What a forward hands out besides; training decides it itself.
        *("output_attentions", "output_hidden_states", "return_dict", "torchscript"),
        # Bookkeeping of transformers, trainers and other programs.
        *("_attn_implementation", "_attn_implementation_autoset", "_flash_attn_2_enabled"),
        *("_commit_hash", "_model_name_or_path", "_name_or_path", "attn_implementation"),
        *("auto_map", "cache_implementation", "gradient_checkpointing", "is_llama_config"),
        *("max_sequence_length", "model_max_length", "model_name", "tokenizer_model_max_length"),
        "pretraining_tp",
        *("neftune_noise_alpha", "seq_length", "transformers.js_config", "use_reentrant"),
        *("unsloth_fixed", "unsloth_version"),
        # Of generation; transformers 4 has them in every configuration, 5 in a file of their own.
        *("do_sample", "early_stopping", "forced_bos_token_id", "forced_eos_token_id"),
        *("length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beams"),
        *("num_return_sequences", "repetition_penalty", "temperature", "top_k", "top_p"),
        *("decoder_start_token_id", "sep_token_id", "tokenizer_class", "use_bfloat16"),
        # Of training: losses beside the model's own, and how its program spread experts.
        *("aux_loss_alpha", "ep_size", "seq_aux"),
        # Layers that predict further tokens; their weights are left out too.
        "num_nextn_predict_layers",
        # Of the files, not of the model; see taidscale/models/quantization.py.
        "quantization_config",
    }
)
"""Entries of public models that change nothing of what the model computes."""


def read_entries(folder: Path, setting: str) -> dict[str, Any]:
    """The entries of a folder's config.json, as they stand there; of wrappers, of the text part.

    Raises:
        ValueError: if there is none, or it names no architecture.
    """
    entries = _parsed(folder, setting)
    if entries["model_type"] not in WRAPPERS:
        return entries
    text = entries.get("text_config")
    if not isinstance(text, dict):
        raise ValueError(f"{setting}: {folder / CONFIG_FILE} holds no text_config")
    outer = {name: entries[name] for name in _OF_THE_WHOLE if name in entries}
    found = {"model_type": WRAPPERS[entries["model_type"]], **outer, **text}
    tied = "tie_word_embeddings"  # transformers 5 says of the text whatever is its default
    return {**found, tied: entries[tied]} if entries.get(tied) is not None else found


def is_wrapper(folder: Path, setting: str) -> bool:
    """Whether a folder's model sees images, and has its text model inside.

    Raises:
        ValueError: if there is a config.json that cannot be read.
    """
    exists = (folder / CONFIG_FILE).is_file()
    return exists and _parsed(folder, setting)["model_type"] in WRAPPERS


def _parsed(folder: Path, setting: str) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{setting}: {folder} holds no {CONFIG_FILE}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{setting}: cannot read {path}: {error}") from None
    if not isinstance(entries, dict) or not isinstance(entries.get("model_type"), str):
        raise ValueError(f"{setting}: cannot read {path}: it names no model_type")
    return entries


def default_entries(model_type: str) -> dict[str, Any]:
    """What this version of transformers knows of an architecture, with its defaults."""
    return _renamed(AutoConfig.for_model(model_type).to_dict(), model_type)


def to_config(entries: dict[str, Any]) -> PretrainedConfig:
    """What transformers makes of the entries of a config.json, none of them lost.

    RoPE has the spelling of `taidscale.models.rope`, and what is only bookkeeping is left out.

    Raises:
        ValueError: naming an entry that may change what the model computes and that this version
            of transformers does not know, or entries that cannot be or contradict each other.
    """
    check_quantization(entries.get("quantization_config"))
    family = entries["model_type"]
    _check_code(entries.get("auto_map"), family)
    defaults = default_entries(family)
    wanted = plain_rope(_renamed(entries, family))
    _check_fixed(wanted, family)
    if wanted.get("hidden_activation") and "hidden_act" in defaults:
        wanted = {**wanted, "hidden_act": wanted["hidden_activation"]}  # as Gemma documents it
    check_base(wanted)
    known = (defaults.keys() | rope_entries(family) | _ALSO_READ) - _WITHOUT_EFFECT
    if family in _PATTERNED:
        known |= {"sliding_window_pattern"}
    unknown = [
        f"{name}: {json.dumps(value)[:60]}"
        for name, value in wanted.items()
        if value and name not in known | _WITHOUT_EFFECT and not _redundant(name, wanted, defaults)
    ]
    if unknown:
        raise ValueError(
            f"the installed transformers does not know {', '.join(unknown)} of "
            f"{family} and would ignore it; delete the entry if the model computes "
            "the same without it, else take another model"
        )
    _check_values(wanted, defaults)
    return _build({name: wanted[name] for name in wanted if name in known})


def _renamed(entries: dict[str, Any], family: str) -> dict[str, Any]:
    """The same entries under the names of `_NEWER_NAMES`' right side."""
    names = _NEWER_NAMES.get(family, {})
    for newer, name in names.items():
        if entries.get(newer, entries.get(name)) != entries.get(name, entries.get(newer)):
            raise ValueError(f"{newer} is {entries[newer]!r}, but {name} is {entries[name]!r}")
    return {names.get(name, name): value for name, value in entries.items()}


def _check_code(auto_map: Any, family: str) -> None:
    """Refuse models whose code comes with them: only transformers' own is run."""
    named = auto_map if isinstance(auto_map, dict) else {}
    taken = _PUBLISHED_CODE.get(family, ())
    own = sorted(n for n, code in named.items() if n != "AutoTokenizer" and code not in taken)
    if own:
        raise ValueError(
            f"auto_map names code of its own ({', '.join(own)}), which is never run; if "
            "transformers' own code computes the same, delete auto_map from config.json"
        )


def _check_fixed(wanted: dict[str, Any], family: str) -> None:
    for name, value in _FIXED.get(family, {}).items():
        if (wanted.get(name, value) or None) != (value or None):
            raise ValueError(
                f"{name} is {wanted[name]!r}; of {family} transformers computes {value!r} alone"
            )


def _redundant(name: str, wanted: dict[str, Any], defaults: dict[str, Any]) -> bool:
    """Whether an entry that is not read says only what others say."""
    value, either = wanted[name], {**defaults, **wanted}
    if name in _FIXED.get(wanted["model_type"], {}):
        return True
    match name:
        case _ if name in _OLD_NAMES:
            return bool(value == either.get(_OLD_NAMES[name]))
        case "hidden_act":  # of Gemma 2
            return bool(value == either.get("hidden_activation"))
        case "hidden_activation":  # of Gemma; `to_config` has taken it over
            return bool(value == either.get("hidden_act"))
        case "sliding_window_size":  # of early Gemma 2
            return bool(value == either.get("sliding_window"))
        case "_sliding_window_pattern":  # of Cohere 2, as transformers 4 writes it
            return wanted.get("layer_types") is not None
        case "sliding_window" | "max_window_layers":
            return wanted.get("use_sliding_window") is False
        case "layer_types":
            kind = "sliding" if either.get("sliding_window") else "full"
            return isinstance(value, list) and set(value) == {f"{kind}_attention"}
    return False


def _check_values(wanted: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Types and bounds, so that no mistake shows as a traceback of transformers."""
    for name, value in wanted.items():
        default = defaults.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None and name in _NEVER_NULL and default is not None:
            raise ValueError(f"{name} is null; delete the entry for transformers' {default!r}")
        if value is None or name.endswith("_token_id"):
            continue
        if name in _SIZES:
            if not (number and isinstance(value, int) and value > 0):
                raise ValueError(f"{name} is {value!r}; it must be a whole number above 0")
        elif isinstance(default, bool):
            if not isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}; it must be true or false")
        elif isinstance(default, int | float) and not number:
            said = "; YAML takes 1e-5 for text, write 1.0e-5" if isinstance(value, str) else ""
            raise ValueError(f"{name} is {value!r}; it must be a number{said}")
        elif name in ("hidden_act", "hidden_activation") and value not in ACT2FN:
            raise ValueError(f"{name} is {value!r}, which transformers does not know")


def _build(entries: dict[str, Any]) -> PretrainedConfig:
    if entries.get("head_dim") is None:
        entries.pop("head_dim", None)
    spelled = entries if TRANSFORMERS < 5 else newer_rope(entries)
    rest = {name: value for name, value in spelled.items() if name != "model_type"}
    try:
        config = AutoConfig.for_model(entries["model_type"], **rest)
    except (
        *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
        StrictDataclassError,  # transformers 5's
    ) as error:
        cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
        reason = (str(cause or error).strip() or repr(error)).splitlines()[0]
        raise ValueError(f"transformers refuses it: {reason}") from None
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    whole, rest_of = divmod(config.hidden_size, heads)
    head_dim = getattr(config, "head_dim", None) or whole
    if heads % groups:
        raise ValueError(
            f"num_attention_heads ({heads}) does not divide by num_key_value_heads ({groups})"
        )
    if rest_of and "head_dim" not in entries and head_dim == whole:
        raise ValueError(
            f"hidden_size ({config.hidden_size}) does not divide by num_attention_heads ({heads}), "
            "and no head_dim is given"
        )
    if entries["model_type"] in _DERIVED_HEADS and head_dim * heads != config.hidden_size:
        raise ValueError(
            f"head_dim is {head_dim}; that of {entries['model_type']} is hidden_size over "
            f"num_attention_heads, {config.hidden_size / heads:g}"
        )
    if head_dim % 2:
        raise ValueError(f"head_dim is {head_dim}; RoPE turns pairs, so it must be even")
    if hasattr(config, "head_dim"):
        config.head_dim = head_dim  # Mistral's may be null, which its scaled RoPE stumbles over
    return config

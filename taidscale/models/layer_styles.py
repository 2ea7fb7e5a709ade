"""How each family writes its layers: which parts they have, and what these are called.

Read off the modules of transformers 4.57.6. What differs between models of one family (sizes,
biases, windows) stands in their `config.json`; `taidscale.models.layer_shapes` reads it.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

Switch = bool | str
"""Fixed by the family, or the entry of `config.json` that decides it."""


class Norm(StrEnum):
    """How a norm computes, which decides what it keeps for backward."""

    RMS = "root mean square; normalised values in the type of the input, then weights"
    RMS_FLOAT32 = "root mean square, weights applied in float32"
    LAYER = "torch's own layer norm"
    LAYER_UNWEIGHTED = "torch's own in float32, without weights"
    LAYER_FLOAT32 = "mean and variance in single operations in float32, weights too"


class HeadNorm(StrEnum):
    """What the weights of a norm of queries and keys belong to."""

    NONE = "there is none"
    ALIKE = "each element of a head, the same for all heads"
    EACH = "each element of each head, a row a head"
    EACH_MODULE = "likewise, a module a head"
    ALL = "all heads at once"


class Turning(StrEnum):
    """In which type RoPE turns queries and keys."""

    SAME = "that of the model"
    FLOAT32 = "float32, as its angles have"
    COPIES = "float32, to which queries and keys are copied first"


class Windows(StrEnum):
    """Which layers see no further than `sliding_window`."""

    NONE = "none"
    ALL = "all, where it is set"
    BY_TYPE = "those that `layer_types` says"


@dataclass(frozen=True)
class LayerStyle:
    """A family's layers."""

    attention: str = "self_attn"
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    """One name where the three are packed in one projection; none where keys are latent."""
    output: str = "o_proj"
    qkv_bias: Switch = "attention_bias"
    output_bias: Switch = "attention_bias"
    head_norm: HeadNorm = HeadNorm.NONE
    head_norm_if: Switch = True
    head_norm_names: tuple[str, str] = ("q_norm", "k_norm")
    head_norm_bias: bool = False
    head_dim_is_free: bool = True
    """Whether `head_dim` is read; else it is hidden size by heads."""
    windows: Windows = Windows.NONE
    mlp: str = "mlp"
    mlp_names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    """The last one gives the hidden size back."""
    gated: bool = True
    """Whether there are gates, which two names pack with what they gate."""
    mlp_bias: Switch = False
    norm: Norm = Norm.RMS
    norms_before: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    """Of what attention and MLP read."""
    norms_after: tuple[str, ...] = ()
    """Of what they add."""
    norms_if_parallel: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    """Instead of `norms_before`, where attention and MLP read the same."""
    parallel: Switch = False
    last_norm: str = "norm"
    head_bias: bool = False
    joins_turned: bool = False
    """Whether queries and keys are put together of what RoPE turns and the rest, which orders them
    by head, so that what attention gives has to be copied."""
    turning: Turning = Turning.SAME
    repeats_keys: bool = False
    """Whether keys and values are always copied for each query head, not only with a mask."""
    spare_states: int = 0
    """Hidden states that variables of a layer hold during its MLP, though nothing needs them, where
    that comes after attention."""

    @property
    def norm_bias(self) -> bool:
        """Whether norms have one."""
        return self.norm is Norm.LAYER

    @property
    def norm_weight(self) -> bool:
        """Whether norms have weights."""
        return self.norm is not Norm.LAYER_UNWEIGHTED

    @property
    def packed_qkv(self) -> bool:
        """Whether one projection makes queries, keys and values."""
        return len(self.qkv) == 1

    @property
    def packed_gate(self) -> bool:
        """Whether one projection makes gates and what they gate."""
        return self.gated and len(self.mlp_names) == 2


_LLAMA = LayerStyle(mlp_bias="mlp_bias")
_PLAIN = LayerStyle()
_UNBIASED = LayerStyle(qkv_bias=False, output_bias=False)
_AROUND = LayerStyle(
    norm=Norm.RMS_FLOAT32,
    windows=Windows.BY_TYPE,
    norms_before=("input_layernorm", "pre_feedforward_layernorm"),
    norms_after=("post_attention_layernorm", "post_feedforward_layernorm"),
)
_AFTER = LayerStyle(
    norm=Norm.RMS_FLOAT32,
    head_norm=HeadNorm.ALL,
    norms_before=(),
    norms_after=("post_attention_layernorm", "post_feedforward_layernorm"),
    turning=Turning.FLOAT32,
)
_COHERE = LayerStyle(
    norm=Norm.LAYER_FLOAT32,
    parallel=True,
    norms_if_parallel=("input_layernorm",),
    turning=Turning.COPIES,
)
_GLM = LayerStyle(output_bias=False, mlp_names=("gate_up_proj", "down_proj"), joins_turned=True)
_UNGATED = LayerStyle(mlp_names=("up_proj", "down_proj"), gated=False, mlp_bias="mlp_bias")
_EXPERTS = replace(_UNBIASED, windows=Windows.ALL)

LAYER_STYLES: dict[str, LayerStyle] = {
    "llama": _LLAMA,
    "qwen2": replace(_UNBIASED, qkv_bias=True, windows=Windows.BY_TYPE),
    "qwen3": replace(_PLAIN, head_norm=HeadNorm.ALIKE, windows=Windows.BY_TYPE),
    "mistral": replace(_UNBIASED, windows=Windows.ALL),
    "ministral": replace(_UNBIASED, windows=Windows.BY_TYPE),
    "gemma": replace(_PLAIN, norm=Norm.RMS_FLOAT32),
    "gemma2": _AROUND,
    "gemma3_text": replace(_AROUND, head_norm=HeadNorm.ALIKE),
    "smollm3": replace(_LLAMA, windows=Windows.BY_TYPE),
    "olmo": replace(_PLAIN, norm=Norm.LAYER_UNWEIGHTED, turning=Turning.FLOAT32),
    "olmo2": _AFTER,
    "olmo3": replace(_AFTER, windows=Windows.BY_TYPE),
    "granite": _LLAMA,
    "seed_oss": replace(_LLAMA, output_bias="attention_out_bias"),
    "cohere": replace(_COHERE, head_norm=HeadNorm.EACH, head_norm_if="use_qk_norm"),
    "cohere2": replace(_COHERE, windows=Windows.BY_TYPE),
    "exaone4": replace(
        _AFTER,
        norm=Norm.RMS,
        qkv_bias=False,
        output_bias=False,
        head_norm=HeadNorm.ALIKE,
        windows=Windows.BY_TYPE,
        turning=Turning.SAME,
    ),
    "starcoder2": LayerStyle(
        qkv_bias="use_bias",
        output_bias="use_bias",
        mlp_bias="use_bias",
        mlp_names=("c_fc", "c_proj"),
        gated=False,
        norm=Norm.LAYER,
        windows=Windows.ALL,
    ),
    "ernie4_5": LayerStyle(
        qkv_bias="use_bias", output_bias="use_bias", mlp_bias="use_bias", turning=Turning.FLOAT32
    ),
    "nemotron": replace(_UNGATED, norm=Norm.LAYER, joins_turned=True, repeats_keys=True),
    "arcee": _UNGATED,
    "phi": LayerStyle(
        output="dense",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_norm=HeadNorm.ALIKE,
        head_norm_if="qk_layernorm",
        head_norm_names=("q_layernorm", "k_layernorm"),
        head_norm_bias=True,
        mlp_names=("fc1", "fc2"),
        gated=False,
        norm=Norm.LAYER,
        parallel=True,
        norms_if_parallel=("input_layernorm",),
        last_norm="final_layernorm",
        head_bias=True,
        joins_turned=True,
    ),
    "phi3": replace(
        _UNBIASED,
        qkv=("qkv_proj",),
        mlp_names=("gate_up_proj", "down_proj"),
        windows=Windows.ALL,
        joins_turned=True,
    ),
    "gpt_neox": LayerStyle(
        attention="attention",
        qkv=("query_key_value",),
        output="dense",
        mlp_bias=True,
        head_dim_is_free=False,
        mlp_names=("dense_h_to_4h", "dense_4h_to_h"),
        gated=False,
        norm=Norm.LAYER,
        parallel="use_parallel_residual",
        last_norm="final_layer_norm",
        joins_turned=True,
    ),
    "stablelm": LayerStyle(
        qkv_bias="use_qkv_bias",
        output_bias=False,
        head_norm=HeadNorm.EACH_MODULE,
        head_norm_if="qk_layernorm",
        head_norm_names=("q_layernorm", "k_layernorm"),
        head_dim_is_free=False,
        norm=Norm.LAYER,
        parallel="use_parallel_residual",
        norms_if_parallel=("input_layernorm",),
        joins_turned=True,
        repeats_keys=True,
        spare_states=2,
    ),
    "glm": _GLM,
    "glm4": replace(_GLM, norms_after=("post_self_attn_layernorm", "post_mlp_layernorm")),
    "helium": LayerStyle(output_bias=False, mlp_bias="mlp_bias", norm=Norm.RMS_FLOAT32),
    "qwen3_moe": replace(_PLAIN, head_norm=HeadNorm.ALIKE, windows=Windows.ALL),
    "qwen2_moe": replace(_EXPERTS, qkv_bias="qkv_bias", repeats_keys=True),
    "mixtral": replace(_EXPERTS, mlp="block_sparse_moe", mlp_names=("w1", "w3", "w2")),
    "glm4_moe": replace(
        _PLAIN,
        output_bias=False,
        head_norm=HeadNorm.ALIKE,
        head_norm_if="use_qk_norm",
        joins_turned=True,
    ),
    "deepseek_v3": replace(_PLAIN, qkv=(), joins_turned=True),
}
"""By `model_type`."""


def switched(config: object, switch: Switch) -> bool:
    """Whether something is on.

    Args:
        config: of a model.
        switch: fixed, or the name of its entry.
    """
    return switch if isinstance(switch, bool) else bool(getattr(config, switch, False))

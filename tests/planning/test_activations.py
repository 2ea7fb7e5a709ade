"""What real layers of every family keep for backward, and hold in forward, against what is planned.

On one rank and a CPU, in float32 and bf16; whole runs are measured in `test_memory_measured`.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from taidscale.config.load import load_config
from taidscale.models.layer_styles import LAYER_STYLES, Windows
from taidscale.models.shape import ModelShape, model_shape
from taidscale.models.trunk import from_embeddings
from taidscale.planning import activations
from taidscale.planning.shapes import run_shapes
from tests.models.small_configs import EXPERTS
from tests.planning.live_tensors import LiveTensors
from tests.planning.test_plan import CONFIGS

SEQ_LEN, BATCH, HIDDEN = 48, 3, 96
WINDOW = 16
SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": HIDDEN,
    "intermediate_size": 256,
    "num_attention_heads": 6,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": None,
}
WITHOUT_DROPOUT = {"attention_dropout": 0.0, "residual_dropout": 0.0}
LATENT: dict[str, Any] = {
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
    "head_dim": 8,
    "num_key_value_heads": 6,
}
SPARSE = ("qwen3_moe", "qwen2_moe", "mixtral", "glm4_moe", "deepseek_v3")
DENSE = [family for family in LAYER_STYLES if family not in SPARSE]
WINDOWED = [f for f in DENSE if LAYER_STYLES[f].windows is not Windows.NONE]
CASES: list[tuple[str, dict[str, Any]]] = [
    *((family, {"num_key_value_heads": 6}) for family in DENSE),
    *((family, {"num_key_value_heads": 2}) for family in DENSE if family != "gpt_neox"),
    *((family, {"num_key_value_heads": 2, "sliding_window": WINDOW}) for family in WINDOWED),
    ("cohere", {"num_key_value_heads": 2, "use_qk_norm": True}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("stablelm", {"use_parallel_residual": True, "num_key_value_heads": 2}),
    ("phi", {"hidden_act": "gelu", "num_key_value_heads": 2, "qk_layernorm": True}),
]
# Layers of Cohere 2 without windows do not turn queries and keys; no model has only those.
FORWARD_CASES = [
    *(case for case in CASES if case[0] != "cohere2" or "sliding_window" in case[1]),
    ("deepseek_v3", LATENT),
]


def name(case: Any) -> str:
    return "-".join(f"{k}={v}" for k, v in case.items()) if isinstance(case, dict) else str(case)


class Trunk:
    """A model without its head, its shape, and the bytes that a forward of it needs."""

    def __init__(
        self, family: str, settings: dict[str, Any], num_layers: int, dtype: torch.dtype
    ) -> None:
        kinds: dict[str, Any] = {}
        if LAYER_STYLES[family].windows is Windows.BY_TYPE:
            kind = "sliding" if "sliding_window" in settings else "full"
            kinds = {"layer_types": [f"{kind}_attention"] * num_layers, "use_sliding_window": True}
        sizes = {**SIZES, **kinds, **WITHOUT_DROPOUT, **settings, "num_hidden_layers": num_layers}
        config = AutoConfig.for_model(family, **sizes)
        self.shape: ModelShape = model_shape(config)
        attention = "eager" if self.shape.whole_scores else "sdpa"
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(dtype)
        self._model = model
        self._trunk = model.gpt_neox if family == "gpt_neox" else model.model
        self._embeddings = torch.randn(BATCH, SEQ_LEN, HIDDEN, dtype=dtype)

    def saved(self, positions: torch.Tensor | None = None) -> int:
        """Bytes that exist between forward and backward."""
        self._embeddings.requires_grad_()
        with LiveTensors() as tensors:
            before = self._see_weights(tensors)
            output = from_embeddings(self._trunk.train(), self._embeddings, positions)
            assert output.requires_grad
            return int(tensors.live - before)

    @torch.no_grad()
    def peak(self) -> int:
        """Bytes that exist at most during a forward without gradients."""
        with LiveTensors() as tensors:
            before = self._see_weights(tensors)
            tensors.forget_peaks()
            from_embeddings(self._trunk.eval(), self._embeddings, None)
            return int(tensors.peaks["start"] - before)

    def _see_weights(self, tensors: LiveTensors) -> int:
        for tensor in (*self._model.parameters(), *self._model.buffers(), self._embeddings):
            tensor.view(-1)
        return tensors.live


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("family", "settings"), CASES, ids=name)
def test_a_layer_keeps_what_is_planned(
    family: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    """To a fiftieth: a mean or deviation of a token and head is left out."""
    one, three = (Trunk(family, settings, number, dtype) for number in (1, 3))
    seen = (three.saved() - one.saved()) / 2 / (BATCH * SEQ_LEN)
    ((layer, _),) = one.shape.layers
    planned = activations.saved_per_layer(one.shape, layer, SEQ_LEN, dtype.itemsize)
    assert planned == pytest.approx(seen, rel=0.02)
    three_layers = activations.saved_by_layers(three.shape, SEQ_LEN, dtype.itemsize)
    assert three_layers == 3 * planned


@pytest.mark.parametrize("family", ["llama", "phi3", "olmo2"])
def test_documents_need_masks(family: str) -> None:
    """And, with them, keys and values for each query head."""
    positions = torch.arange(SEQ_LEN) % 20  # three documents
    positions = positions.expand(BATCH, -1)
    settings = {"num_key_value_heads": 2}
    one, three = (Trunk(family, settings, number, torch.bfloat16) for number in (1, 3))
    seen = (three.saved(positions) - one.saved(positions)) / 2 / (BATCH * SEQ_LEN)
    shape = replace(one.shape, masks="all")
    ((layer, _),) = shape.layers
    planned = activations.saved_per_layer(shape, layer, SEQ_LEN, 2)
    assert planned == pytest.approx(seen, rel=0.02)


def planned_peak(shape: ModelShape, item: int) -> int:
    """Per token; embeddings are the caller's."""
    work = activations.forward_work(shape, SEQ_LEN, item)
    ends = activations.positions(shape, SEQ_LEN, item)
    return work + activations.layer_input(shape, item) + ends


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("family", "settings"), FORWARD_CASES, ids=name)
def test_a_forward_holds_what_is_planned(
    family: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    """Within an eighth."""
    if family == "deepseek_v3":  # whose attention alone is meant
        settings = {**settings, "first_k_dense_replace": 2}
    trunk = Trunk(family, settings, 2, dtype)
    seen = trunk.peak() / (BATCH * SEQ_LEN)
    assert planned_peak(trunk.shape, dtype.itemsize) == pytest.approx(seen, rel=0.125)


@pytest.mark.parametrize("family", SPARSE)
def test_experts_need_no_more_than_is_planned(family: str) -> None:
    """The plan has all experts of a token at once; those of transformers come one by one."""
    latent = LATENT if family == "deepseek_v3" else {"num_key_value_heads": 2}
    sparse = {**EXPERTS, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 80}
    settings = {**sparse, **latent, "first_k_dense_replace": 0}
    trunk = Trunk(family, settings, 2, torch.float32)
    assert trunk.peak() / (BATCH * SEQ_LEN) <= planned_peak(trunk.shape, 4)
    # A token's two rows, gated columns, and both that gave them or what they give.
    width = 256 if family == "mixtral" else 64
    rows = 2 * (HIDDEN + width + max(HIDDEN, 2 * width)) + 3 * HIDDEN
    shared = {"qwen2_moe": 80, "glm4_moe": 64, "deepseek_v3": 64}.get(family, 0)
    shared_rows = 3 * shared + 4 * HIDDEN if shared else 0
    work = activations.forward_work(trunk.shape, SEQ_LEN, 4)
    assert work >= 4 * max(rows, shared_rows)
    if family != "deepseek_v3":  # whose attention needs more here
        assert work == 4 * max(rows, shared_rows)


def test_flash_attention_needs_no_masks() -> None:
    """Nor copies of keys and values for each query head."""
    settings = {**SIZES, "num_hidden_layers": 2, "num_key_value_heads": 2}
    windowed = AutoConfig.for_model("mistral", **settings, sliding_window=WINDOW)
    flash = model_shape(windowed, "flash_attention_2")
    whole = model_shape(AutoConfig.for_model("mistral", **settings, sliding_window=None))
    masked = model_shape(windowed)
    saved = activations.saved_by_layers
    assert saved(flash, SEQ_LEN, 2) == saved(whole, SEQ_LEN, 2) < saved(masked, SEQ_LEN, 2)
    assert saved(masked, WINDOW, 2) == saved(whole, WINDOW, 2)
    assert planned_peak(flash, 2) == planned_peak(whole, 2) < planned_peak(masked, 2)


def test_a_run_within_documents_needs_more() -> None:
    config = load_config(CONFIGS / "tinyswallow-1.5b.yaml")
    data = config.data.model_copy(update={"attention": "within_document"})
    student, teacher = run_shapes(config.model_copy(update={"data": data}))
    assert teacher is not None
    assert (student.masks, teacher.masks) == ("all", "all")
    without, _ = run_shapes(config)
    # Each of 28 layers: a mask of S numbers, and copies of keys and values for 12 heads, not for 2.
    more = 28 * 2 * (4096 + 2 * (12 - 2) * 128)
    assert saved_in_tinyswallow(student) == saved_in_tinyswallow(without) + more


def saved_in_tinyswallow(shape: ModelShape) -> int:
    return activations.saved_by_layers(shape, 4096, 2)

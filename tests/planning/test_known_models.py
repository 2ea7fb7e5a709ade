"""Known models against what their makers publish, and those that are refused by name."""

import math

import pytest
from transformers import AutoConfig

from taidscale.config.load import load_config
from taidscale.models.families import FAMILIES, model_config
from taidscale.models.shape import ModelShape, model_shape
from taidscale.planning.first_run import Wish, first_run
from taidscale.planning.gpus import GPUS
from taidscale.planning.known_models import KNOWN_MODELS
from taidscale.planning.shapes import entries, run_shapes
from tests.planning.test_plan import CONFIGS

PUBLISHED = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "Qwen/Qwen1.5-MoE-A2.7B": 14_315_784_192,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B-Instruct": 70_553_706_496,
    "meta-llama/Llama-3.1-405B": 405_853_388_800,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "TinyLlama/TinyLlama_v1.1": 1_100_048_384,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "mistralai/Mistral-Nemo-Instruct-2407": 12_247_782_400,
    "mistralai/Ministral-8B-Instruct-2410": 8_019_808_256,
    "mistralai/Mistral-Small-24B-Base-2501": 23_572_403_200,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "mistralai/Mixtral-8x22B-v0.1": 140_620_634_112,
    "google/gemma-2b": 2_506_172_416,
    "google/gemma-7b": 8_537_680_896,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b-it": 27_227_128_320,
    "google/gemma-3-270m": 268_098_176,
    "google/gemma-3-1b-pt": 999_885_952,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/Phi-3-medium-4k-instruct": 13_960_238_080,
    "microsoft/phi-4": 14_659_507_200,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "allenai/OLMo-2-0425-1B": 1_484_916_736,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
    "allenai/OLMo-2-1124-13B": 13_716_198_400,
    "allenai/OLMo-2-0325-32B": 32_234_279_936,
    "stabilityai/stablelm-zephyr-3b": 2_795_443_200,
}
"""Elements in their files, `safetensors.total` of the Hub's API. Of StableLM also its card."""
WITH_ANGLES = {
    "meta-llama/Llama-2-7b-hf": (6_738_417_664, 32 * 64),
    "meta-llama/Llama-2-13b-hf": (13_015_866_880, 40 * 64),
}
"""The same, of files that hold RoPE's 64 frequencies for each layer."""
WITH_IMAGES = {
    "google/gemma-3-4b-pt": 4_300_079_472,
    "google/gemma-3-12b-pt": 12_187_325_040,
    "google/gemma-3-27b-it": 27_432_406_640,
}
"""The same, of files that hold an eye, and its projection with a norm."""
EYE, EYE_SIZE = 416_866_032, 1152
"""Parameters and hidden size of Gemma 3's eye (417 M, arXiv:2503.19786, table 1)."""
WITHOUT_ENDS = {
    "EleutherAI/pythia-70m": 18_915_328,
    "EleutherAI/pythia-160m": 85_056_000,
    "EleutherAI/pythia-410m": 302_311_424,
    "EleutherAI/pythia-1b": 805_736_448,
    "EleutherAI/pythia-1.4b": 1_208_602_624,
    "EleutherAI/pythia-2.8b": 2_517_652_480,
    "EleutherAI/pythia-6.9b": 6_444_163_072,
    "EleutherAI/pythia-12b": 11_327_027_200,
}
"""Parameters without embedding and head, of the models' cards."""
IN_BILLIONS = {
    "Qwen/Qwen3-30B-A3B": (30.5, 3.3),  # card
    "Qwen/Qwen3-235B-A22B": (235, 22),  # card
    "Qwen/Qwen1.5-MoE-A2.7B": (14.3, 2.7),  # card
    "mistralai/Mixtral-8x7B-v0.1": (46.7, 12.9),  # mistral.ai/news/mixtral-of-experts
    "mistralai/Mixtral-8x22B-v0.1": (141, 39),  # mistral.ai/news/mixtral-8x22b
}
"""Parameters, and those that a token meets."""


def shape(name: str) -> ModelShape:
    return model_shape(AutoConfig.for_model(**KNOWN_MODELS[name]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_models_have_their_published_sizes(name: str) -> None:
    assert shape(name).num_parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", WITH_ANGLES)
def test_frequencies_are_no_parameters(name: str) -> None:
    published, frequencies = WITH_ANGLES[name]
    assert shape(name).num_parameters == published - frequencies


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_language_models_of_those_that_see(name: str) -> None:
    found = shape(name)
    projection = EYE_SIZE * found.hidden_size + EYE_SIZE
    assert found.num_parameters == WITH_IMAGES[name] - EYE - projection


@pytest.mark.parametrize("name", WITHOUT_ENDS)
def test_pythia_without_its_ends(name: str) -> None:
    found = shape(name)
    assert found.num_parameters - 2 * found.head_parameters == WITHOUT_ENDS[name]


def test_glm_without_what_predicts_further_tokens() -> None:
    """The Hub counts 110,468,824,832 in the files of GLM-4.5-Air.

    They hold another sparse layer with a head, an embedding, a projection and three norms of its
    own, and a bias of each router, which no gradient moves.
    """
    found = shape("zai-org/GLM-4.5-Air")
    sparse = next(layer for layer, _ in found.layers if layer.experts is not None)
    d, biases = found.hidden_size, 46 * 128
    further = sparse.size + 2 * found.head_parameters + 2 * d * d + 3 * d
    assert found.num_parameters == 110_468_824_832 - further - biases
    assert math.floor(found.num_parameters / 1e9) == 106  # arXiv:2508.06471, table 1


def test_deepseek() -> None:
    """671 B parameters, 37 B active (arXiv:2412.19437): without the embedding, a lookup."""
    found = shape("deepseek-ai/DeepSeek-V3")
    assert round(found.num_parameters / 1e9) == 671
    assert round((found.active_parameters - found.head_parameters) / 1e9) == 37


@pytest.mark.parametrize("name", IN_BILLIONS)
def test_experts_have_their_published_sizes(name: str) -> None:
    found, (whole, active) = shape(name), IN_BILLIONS[name]
    for counted, published in ((found.num_parameters, whole), (found.active_parameters, active)):
        digits = 1 if isinstance(published, float) else 0
        assert math.isclose(counted / 1e9, published, abs_tol=0.6 * 10**-digits)


def test_windows_are_those_of_the_models() -> None:
    def windows(name: str) -> list[tuple[int | None, int]]:
        return [(layer.window, number) for layer, number in shape(name).layers]

    assert windows("google/gemma-3-1b-it") == [(512, 22), (None, 4)]
    assert windows("google/gemma-3-27b-it") == [(1024, 52), (None, 10)]
    assert windows("google/gemma-2-2b") == [(4096, 13), (None, 13)]
    assert windows("mistralai/Mistral-7B-v0.1") == [(4096, 32)]
    assert windows("mistralai/Mistral-7B-v0.3") == [(None, 32)]
    assert windows("microsoft/Phi-3-mini-4k-instruct") == [(2047, 32)]
    assert windows("Qwen/Qwen2.5-7B") == [(None, 28)]


@pytest.mark.parametrize("family", sorted({str(e["model_type"]) for e in KNOWN_MODELS.values()}))
def test_every_known_model_can_be_built(family: str) -> None:
    for name, known in KNOWN_MODELS.items():
        if known["model_type"] == family:
            found = shape(name)
            assert found.num_heads % found.num_kv_heads == 0
            if family in FAMILIES:
                assert model_shape(model_config(known, "teacher.model", name)) == found


@pytest.mark.parametrize("name", ["openai/gpt-oss-20b", "openai/gpt-oss-120b"])
def test_what_is_not_supported_is_refused_by_name(name: str) -> None:
    says = f"^teacher.model: {name} is not supported: its attention has sinks"
    with pytest.raises(ValueError, match=says):
        entries(name, None, "teacher.model")
    config = load_config(CONFIGS / "tinyswallow-1.5b.yaml", [f"teacher.model={name}"])
    with pytest.raises(ValueError, match=says):
        run_shapes(config)
    gpu = GPUS["h100-80g"]
    wish = Wish(name, "Qwen/Qwen2.5-1.5B", gpu, 8, 8, 10**9, None, ("d",), None, "runs/a")
    with pytest.raises(ValueError, match=says.replace("teacher.model", "--teacher")):
        first_run(wish)


def test_no_known_student_has_experts_where_a_run_begins() -> None:
    """By the name of the option, and of the setting."""
    gpu = GPUS["h100-80g"]
    sparse = "Qwen/Qwen3-30B-A3B"
    wish = Wish("Qwen/Qwen3-32B", sparse, gpu, 8, 8, 10**9, None, ("d",), None, "runs/a")
    with pytest.raises(ValueError, match=r"^--student: 'qwen3_moe' can be a teacher, but not"):
        first_run(wish)
    given = ["student.init.source=pretrained", f"student.init.model={sparse}"]
    config = load_config(CONFIGS / "tinyswallow-1.5b.yaml", given)
    with pytest.raises(ValueError, match=r"^student.init.model: 'qwen3_moe' can be a teacher"):
        run_shapes(config)

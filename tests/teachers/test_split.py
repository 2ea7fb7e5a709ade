"""The tensor-parallel teacher against the unsharded transformers model, in float32."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from taidscale.config.schema import TeacherConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.runtime import start_ranks
from taidscale.losses.vocabulary import Vocabulary
from taidscale.models.families import attention_for, read_model_config
from taidscale.parallel.grid import Grid
from taidscale.teachers.split import SplitTeacher, warn_of_uneven_heads
from tests.ranks import run_on_ranks
from tests.tiny_models import save_tiny_model

VOCABULARY, ROWS = 99, 101
SEQUENCES, SEQ_LEN = 2, 8
"""Of each rank."""
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2")
"""All others are in `test_families`, with fewer questions."""
CASES = [(family, tied) for family in FAMILIES for tied in (True, False)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with 6 heads on 3 key-value heads, ids of 4 ranks and the logits of them."""
    folder = tmp_path_factory.mktemp("teachers")
    ids = torch.randint(0, VOCABULARY, (4 * SEQUENCES, SEQ_LEN))
    torch.save(ids, folder / "ids.pt")
    for family, tied in CASES:
        model_folder = folder / f"{family}-{tied}"
        save_tiny_model(
            model_folder,
            family,
            vocab_size=ROWS,
            hidden_size=48,
            tied=tied,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=8,
            **({"sliding_window": 4} if family in ("gemma2", "mistral") else {}),
        )
        _randomise_norms_and_biases(model_folder)
        model = _unsharded(model_folder)
        with torch.no_grad():
            torch.save(model(ids).logits, model_folder / "logits.pt")
    return folder


def _randomise_norms_and_biases(folder: Path) -> None:
    """Fresh ones are all 0 or 1, so that a wrong slice of them would not show."""
    model = _unsharded(folder)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    for path in folder.glob("model*"):
        path.unlink()
    model.save_pretrained(folder, max_shard_size="20KB")


def _unsharded(folder: Path) -> Any:
    attention = attention_for(AutoConfig.from_pretrained(folder), "sdpa")
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention
    )
    return model.eval()


def make_teacher(folder: Path, grid: Grid, **settings: Any) -> SplitTeacher:
    config = TeacherConfig.model_validate(
        {
            "model": str(folder),
            "tp_size": grid.tp_size,
            "dtype": "fp32",
            "tokens_per_forward": 24,
            **settings,
        }
    )
    vocabulary = Vocabulary.split(VOCABULARY, grid.tp_rank, grid.tp_size)
    return SplitTeacher(
        config, read_model_config(folder, "teacher.model"), folder, vocabulary, grid
    )


def unlabelled(ids: torch.Tensor) -> MicroBatch:
    """What a teacher needs of a micro-batch."""
    return MicroBatch(ids, ids)


@pytest.mark.parametrize(("world_size", "tp_size"), [(1, 1), (2, 2), (4, 2), (4, 4)])
def test_equals_the_unsharded_model(models: Path, world_size: int, tp_size: int) -> None:
    run_on_ranks(
        world_size, __name__, "compare_with_unsharded", {"models": models, "tp_size": tp_size}
    )


def compare_with_unsharded(models: Path, tp_size: int) -> None:
    """On each rank: every family, on the ids of its own tp_group."""
    grid = start_ranks(tp_size, seed=0)
    ids = torch.load(models / "ids.pt")
    first = SEQUENCES * (grid.rank - grid.tp_rank)  # of the group's sequences
    group = slice(first, first + SEQUENCES * tp_size)
    own = slice(SEQUENCES * grid.rank, SEQUENCES * (grid.rank + 1))
    columns = Vocabulary.split(VOCABULARY, grid.tp_rank, tp_size).rows
    for family, tied in CASES:
        folder = models / f"{family}-{tied}"
        where = f"{family}, tied {tied}, rank {grid.rank} of {grid.world_size}"
        before = torch.get_rng_state()
        teacher = make_teacher(folder, grid)
        assert torch.equal(torch.get_rng_state(), before), where
        tokens = teacher(unlabelled(ids[own]))
        assert tokens.hidden.shape == (SEQUENCES * tp_size * SEQ_LEN, 48)
        assert not tokens.hidden.requires_grad
        logits = tokens.hidden @ tokens.head_rows.t()
        if tokens.softcap is not None:
            logits = tokens.softcap * torch.tanh(logits / tokens.softcap)
        reference = torch.load(folder / "logits.pt")[group].flatten(0, 1)[:, columns]
        assert (logits - reference).abs().max() < 2e-5, where
        assert (tokens.softcap is not None) == (family == "gemma2")


@pytest.mark.parametrize(("world_size", "tp_size"), [(1, 1), (2, 2)])
def test_buffers_shares_and_slices(models: Path, world_size: int, tp_size: int) -> None:
    params = {"models": models, "tp_size": tp_size}
    run_on_ranks(world_size, __name__, "check_parts", params)


def check_parts(models: Path, tp_size: int) -> None:
    grid = start_ranks(tp_size, seed=0)
    for family in FAMILIES:
        folder = models / f"{family}-False"
        check_buffers(folder, grid)
        check_shares(folder, grid)
        check_slices(folder, grid, torch.load(models / "ids.pt"))
    check_head_is_shared_where_tied(models, grid)
    check_damaged_weights(models, grid)


def check_buffers(folder: Path, grid: Grid) -> None:
    """In bf16 too, RoPE frequencies are those of the unsharded model in float32."""
    teacher = make_teacher(folder, grid, dtype="bf16")
    reference = dict(_unsharded(folder).named_buffers())
    found = dict(teacher._trunk.named_buffers())
    rope = {name for name in found if "inv_freq" in name}
    assert rope
    assert found.keys() == reference.keys()
    for name in rope:
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], reference[name])
    assert {parameter.dtype for parameter in teacher._trunk.parameters()} == {torch.bfloat16}
    tokens = teacher(unlabelled(torch.zeros(1, 3, dtype=torch.int64)))
    assert tokens.hidden.dtype == tokens.head_rows.dtype == torch.bfloat16


def check_shares(folder: Path, grid: Grid) -> None:
    """The ranks hold every projection's weights once between them, and none holds all."""
    teacher = make_teacher(folder, grid)
    whole = {
        name: parameter.numel()
        for name, parameter in _unsharded(folder).named_parameters()
        if parameter.ndim == 2 and name.startswith("model.layers.")
    }
    parameters = dict(teacher._trunk.named_parameters())
    own = torch.tensor([parameters[name].numel() for name in whole])
    largest = math.ceil(3 / grid.tp_size) / 3  # of 3 key-value heads
    for name, numel in zip(whole, own.tolist(), strict=True):
        assert numel <= largest * whole[name], name
    dist.all_reduce(own, group=grid.tp_group)
    assert own.tolist() == list(whole.values())
    head_rows = torch.tensor(len(teacher._head_rows))
    assert head_rows <= math.ceil(VOCABULARY / grid.tp_size)
    dist.all_reduce(head_rows, group=grid.tp_group)
    assert head_rows == VOCABULARY


def check_slices(folder: Path, grid: Grid, ids: torch.Tensor) -> None:
    """`tokens_per_forward` bounds what the trunk sees, and changes nothing else."""
    own = ids[3 * grid.rank : 3 * grid.rank + 3]
    whole = make_teacher(folder, grid, tokens_per_forward=10**6)(unlabelled(own)).hidden
    for limit, most_sequences in ((24, 3), (23, 2), (1, 1)):
        teacher = make_teacher(folder, grid, tokens_per_forward=limit)
        seen: list[int] = []
        teacher._model.register_forward_pre_hook(
            lambda _, args, inputs, seen=seen: seen.append(len(inputs["inputs_embeds"])),
            with_kwargs=True,
        )
        torch.testing.assert_close(teacher(unlabelled(own)).hidden, whole, atol=1e-5, rtol=1e-5)
        assert sum(seen) == 3 * grid.tp_size
        assert max(seen) == most_sequences


def check_head_is_shared_where_tied(models: Path, grid: Grid) -> None:
    """A tied head costs nothing: it is a view of the embedding."""
    for tied in (True, False):
        teacher = make_teacher(models / f"qwen2-{tied}", grid)
        embedding = teacher._trunk.model.get_input_embeddings().weight.untyped_storage().data_ptr()
        assert (teacher._head_rows.untyped_storage().data_ptr() == embedding) == tied


def check_damaged_weights(models: Path, grid: Grid) -> None:
    config = TeacherConfig(model="m", tp_size=grid.tp_size, dtype="fp32")
    vocabulary = Vocabulary.split(VOCABULARY, grid.tp_rank, grid.tp_size)
    folder = models / "llama-False"
    deeper = AutoConfig.from_pretrained(folder)
    deeper.num_hidden_layers = 3
    with pytest.raises(ValueError, match=r"hold no tensor 'model.layers.2"):
        SplitTeacher(config, deeper, folder, vocabulary, grid)
    wider = AutoConfig.from_pretrained(folder)
    wider.vocab_size = 120
    with pytest.raises(ValueError, match=r"embed_tokens.weight is \(101, 48\), .* \(120, 48\)"):
        SplitTeacher(config, wider, folder, vocabulary, grid)
    with pytest.raises(ValueError, match=r"^teacher.model: .* holds no safetensors weights"):
        SplitTeacher(config, deeper, models, vocabulary, grid)


def architecture(num_key_value_heads: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=96, num_attention_heads=12, num_key_value_heads=num_key_value_heads
    )


@pytest.mark.parametrize(
    ("kv_heads", "tp_size", "slowdown"),
    [(3, 2, "1.33"), (6, 4, "1.33"), (4, 3, "1.50"), (2, 8, "4.00")],
)
def test_uneven_heads_warn(
    caplog: pytest.LogCaptureFixture, kv_heads: int, tp_size: int, slowdown: str
) -> None:
    with caplog.at_level(logging.WARNING, "taidscale"):
        warn_of_uneven_heads(architecture(kv_heads), tp_size)
    (message,) = caplog.messages
    assert f"12 heads on {kv_heads} key-value heads do not divide over {tp_size} ranks" in message
    assert f"{slowdown} times" in message


@pytest.mark.parametrize(("kv_heads", "tp_size"), [(1, 1), (6, 3), (4, 4), (3, 12), (2, 4), (1, 4)])
def test_even_heads_do_not_warn(
    caplog: pytest.LogCaptureFixture, kv_heads: int, tp_size: int
) -> None:
    with caplog.at_level(logging.WARNING, "taidscale"):
        warn_of_uneven_heads(architecture(kv_heads), tp_size)
    assert not caplog.messages

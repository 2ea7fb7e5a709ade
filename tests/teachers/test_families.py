"""Every family that can teach, divided over ranks, against the whole model of transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed import comm
from transformers import AutoModelForCausalLM

from taidscale.config.schema import TeacherConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.runtime import start_ranks
from taidscale.losses.signal import HeadSignal
from taidscale.losses.vocabulary import Vocabulary
from taidscale.models.families import FAMILIES, attention_for, read_model_config
from taidscale.models.load import check_weights
from taidscale.models.part_names import trunk_of
from taidscale.models.weights import find_weights
from taidscale.parallel.grid import Grid
from taidscale.teachers.divide import WIDE_NORMS
from taidscale.teachers.split import SplitTeacher
from tests.ranks import run_on_ranks
from tests.small_families import SMALL_MODELS, VOCABULARY, SmallModel, save_small

SEQ_LEN = 24
DOCUMENTS = [[7, 1, 16], [24], [3, 12, 9], [15, 9]]
"""Lengths, for the sequences of four ranks."""
EXACT = 1e-5
"""Relative error of float32 sums in another order."""
ROUNDED = 1.5
"""Largest ratio of the error in bf16 to that of the whole model in bf16."""
Errors = dict[str, float]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models, and what transformers computes with them, whole."""
    folder = tmp_path_factory.mktemp("families")
    chance = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (len(DOCUMENTS), SEQ_LEN), generator=chance)
    torch.save(ids, folder / "ids.pt")
    for small in SMALL_MODELS:
        save_small(folder / small.slug, small)
        torch.save(_reference(folder / small.slug, ids), folder / small.slug / "reference.pt")
    return folder


@pytest.fixture(scope="module")
def table(models: Path) -> dict[tuple[str, int], Errors]:
    """Errors of each row, by the model's name and T; and what `-s` shows."""
    rows: dict[tuple[str, int], Errors] = {}
    for tp_size in (1, 2, 4):
        run_on_ranks(tp_size, __name__, "measure", {"models": models, "tp_size": tp_size})
        found = json.loads((models / f"{tp_size}.json").read_text())
        rows |= {(name, tp_size): errors for name, errors in found.items()}
    columns = list(next(iter(rows.values())))
    print(f"\n{'model':24} T  " + "  ".join(columns))
    for (name, tp_size), errors in rows.items():
        cells = (f"{errors[c]:{len(c)}.3g}" for c in columns)
        print(f"{name:24} {tp_size}  " + "  ".join(cells))
    return rows


@pytest.mark.parametrize("tp_size", [1, 2, 4])
@pytest.mark.parametrize("small", SMALL_MODELS, ids=lambda small: small.name)
def test_equals_the_whole_model(
    small: SmallModel, tp_size: int, table: dict[tuple[str, int], Errors]
) -> None:
    errors = table[small.name, tp_size]
    for name in ("sdpa", "eager", "logits"):
        assert errors[name] < EXACT, name
    if small.packs:
        assert max(errors["documents"], errors["eager documents"]) < EXACT
    assert errors["bf16"] < ROUNDED * errors["whole bf16"]
    layers = 3 if tp_size > 1 else 0
    assert errors["all-reduces"] == 2 * layers
    wide = 2 * layers if small.family in WIDE_NORMS else 0
    assert errors["of a number"] == wide
    assert errors["most held"] < (1.001 if tp_size == 1 else 0.9)


def test_every_family_has_a_row() -> None:
    assert {small.family for small in SMALL_MODELS} == set(FAMILIES)


def measure(models: Path, tp_size: int) -> None:
    """On each rank of a tp_group: all models."""
    grid = start_ranks(tp_size, seed=0)
    rows = {small.name: _row(models / small.slug, grid) for small in SMALL_MODELS}
    if grid.is_first:
        (models / f"{tp_size}.json").write_text(json.dumps(rows))


def _reference(folder: Path, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of each sequence [4, S, ...], as transformers computes it, in float32 and bf16."""
    whole = _whole(folder, torch.float32)
    trunk = trunk_of(whole)
    with torch.no_grad():
        return {
            "hidden": trunk(ids).last_hidden_state,
            "logits": whole(ids).logits[..., :VOCABULARY],
            "apart": torch.stack(
                [
                    torch.cat([trunk(d[None]).last_hidden_state[0] for d in row.split(lengths)])
                    for row, lengths in zip(ids, DOCUMENTS, strict=True)
                ]
            ),
            "bf16": trunk_of(_whole(folder, torch.bfloat16))(ids).last_hidden_state.float(),
            "size": torch.tensor(sum(p.numel() for p in trunk.layers.parameters())),
        }


def _whole(folder: Path, dtype: torch.dtype) -> Any:
    config = read_model_config(folder, "teacher.model")
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention_for(config, "sdpa")
    ).eval()


def _row(folder: Path, grid: Grid) -> Errors:
    config = read_model_config(folder, "teacher.model")
    check_weights(config, find_weights(folder, "teacher.model"), "teacher.model")
    right = torch.load(folder / "reference.pt")
    size = right.pop("size")
    right = {name: tensor[: grid.tp_size].flatten(0, 1) for name, tensor in right.items()}
    ids = torch.load(folder.parent / "ids.pt")[grid.tp_rank][None]
    found: Errors = {}
    for attention in ("sdpa", "eager"):
        teacher = make_teacher(folder, grid, attention, "fp32")
        signal, count = _counted(teacher, MicroBatch(ids, ids))
        found[attention] = _relative(signal.hidden, right["hidden"])
        found[_join(attention, "documents")] = _relative(
            teacher(MicroBatch(ids, ids, positions=_positions(grid))).hidden, right["apart"]
        )
    written = torch.empty(signal.num_tokens, signal.num_columns)
    signal.write_logits(slice(None), written)
    columns = Vocabulary.split(VOCABULARY, grid.tp_rank, grid.tp_size).rows
    found["logits"] = _relative(written, right["logits"][:, columns])
    found["whole bf16"] = typical(right["bf16"], right["hidden"])
    bf16 = make_teacher(folder, grid, "sdpa", "bf16")(MicroBatch(ids, ids)).hidden.float()
    found["bf16"] = typical(bf16, right["hidden"])
    held = sum(p.numel() for p in teacher._trunk.model.layers.parameters())
    found["most held"] = held / float(size)
    found = {name: max(of_ranks) for name, of_ranks in _gathered(found, grid).items()}
    return found | count


def _join(attention: str, rest: str) -> str:
    return rest if attention == "sdpa" else f"{attention} {rest}"


def _gathered(found: Errors, grid: Grid) -> dict[str, list[float]]:
    ranks = grid.gather(found)
    return {name: [errors[name] for errors in ranks] for name in found}


def _positions(grid: Grid) -> torch.Tensor:
    """[1, S] of this rank's documents."""
    return torch.cat([torch.arange(length) for length in DOCUMENTS[grid.tp_rank]])[None]


def make_teacher(folder: Path, grid: Grid, attention: str, dtype: Any) -> SplitTeacher:
    config = TeacherConfig.model_validate(
        {"model": str(folder), "tp_size": grid.tp_size, "dtype": dtype, "attention": attention}
    )
    vocabulary = Vocabulary.split(VOCABULARY, grid.tp_rank, grid.tp_size)
    return SplitTeacher(
        config, read_model_config(folder, "teacher.model"), folder, vocabulary, grid
    )


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def typical(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Of the median token: where rounding chooses another expert, a token is far off."""
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).median())


def _counted(teacher: SplitTeacher, batch: MicroBatch) -> tuple[HeadSignal, Errors]:
    """A forward, and its all-reduces: of hidden states, and of a number per token."""
    sizes: list[int] = []
    right = comm.inference_all_reduce

    def counting(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(tensor.shape[-1])
        return right(tensor, *args, **kwargs)

    comm.inference_all_reduce = counting
    signal = teacher(batch)
    comm.inference_all_reduce = right
    wide = len([size for size in sizes if size > 1])
    return signal, {"all-reduces": wide, "of a number": len(sizes) - wide}
